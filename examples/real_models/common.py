"""What the examples share: the public data sets, a training loop, and the shell."""

from __future__ import annotations

import argparse
import csv
import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

HERE = Path(__file__).parent


def mnist(data: Path, part: str) -> tuple[Tensor, Tensor]:
    """Digits (N, 28, 28) in 0..1 and their labels; `part` is "train" or "t10k"."""
    return _idx(data / f"mnist/{part}-images-idx3-ubyte.gz").float() / 255, _idx(
        data / f"mnist/{part}-labels-idx1-ubyte.gz"
    ).long()


def _idx(path: Path) -> Tensor:
    raw = gzip.decompress(path.read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy())


def sentences(data: Path, part: str) -> tuple[list[str], Tensor]:
    """Film reviews of SST-2 and their mood, 0 or 1; `part` is "train", "dev" or "test"."""
    with gzip.open(data / f"sst/sst2_{part}.tsv.gz", "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").rsplit("\t", 1) for line in file]
    return [text for text, _ in rows], torch.tensor([int(mood) for _, mood in rows])


def photo(data: Path, name: str) -> Tensor:
    """A photo, (3, H, W) in 0..1."""
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(data / f"photos/{name}.png").convert("RGB"))).permute(2, 0, 1) / 255


def train(model: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float, batch: int = 64) -> nn.Module:
    """Adam on cross-entropy; gives the model in evaluation mode."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            output = model(x[rows])
            optimizer.zero_grad()
            nn.functional.cross_entropy(getattr(output, "logits", output), y[rows]).backward()
            optimizer.step()
    return model.eval()


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table as a spreadsheet reads it."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def shell(commands: str, folder: Path) -> None:
    """Run lines like `xaikit explain ...` in a folder, as one types them; a failure ends the example."""
    for line in commands.strip().replace("\\\n", " ").splitlines():
        words = line.split()
        print("\n$", " ".join(words), flush=True)
        done = subprocess.run([sys.executable, "-m", "xaikit", *words[1:]], cwd=folder, check=False)
        if done.returncode:
            sys.exit(done.returncode)


def main(make: Callable[[Path, Path], None], steps: str, found: Callable[[Path], dict[str, float]]) -> None:
    """The whole story of an example: make model and data, run the steps, tell what was found."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("data", type=Path, help="folder with mnist/, sst/, compas/, photos/; see README.md")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    given = parser.parse_args()
    out = given.out or Path(f"{Path(sys.argv[0]).stem}-out")
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    shutil.copy(HERE / "networks.py", out)
    make(given.data, out)
    shell(steps, out)
    print()
    for name, value in found(out).items():
        print(f"{name}: {value:.3g}")

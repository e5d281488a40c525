"""What the examples share: the public data sets, a training loop, and the shell."""

from __future__ import annotations

import argparse
import csv
import gzip
import json
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
    images, labels = (_idx(data / f"mnist/{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    return images.float() / 255, labels.long()


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


def calls(steps: str) -> list[list[str]]:
    """The words of each command in lines like `xaikit explain ...`."""
    return [line.split() for line in steps.replace("\\\n", " ").strip().splitlines()]


def shell(steps: str, folder: Path) -> None:
    """Run the commands in a folder, as one types them; a failure ends the example."""
    for words in calls(steps):
        print("\n$", " ".join(words), flush=True)
        done = subprocess.run([sys.executable, "-m", "xaikit", *words[1:]], cwd=folder, check=False)
        if done.returncode:
            sys.exit(done.returncode)


def share(out: Path, of: Callable[[Tensor], Tensor], label: int | None = None) -> float:
    """The mean over the explained samples (of one class) of a share of their absolute relevance."""
    from xaikit import load_run

    samples = [s for s in load_run(out / "run") if label in (None, s.label)]
    return float(torch.stack([of(s.values.abs()) for s in samples]).mean())


def strongest(out: Path, words: Sequence[str]) -> float:
    """Of how many explained texts one of these words is the most relevant one."""
    from xaikit import load_run
    from xaikit.cli.hugging_face import tokenizer_of

    run = load_run(out / "run")
    ids = tokenizer_of("hf:" + str(out / run.display_names["tokenizer"].removeprefix("hf:"))).convert_tokens_to_ids(
        list(words)
    )
    tops = [int(s.inputs[s.values.flatten(1).sum(1).argmax()]) for s in run]
    return sum(top in ids for top in tops) / len(tops)


def mended(out: Path) -> dict[str, float]:
    """What the model relied on before and after the training, as `xaikit mitigate` measured it."""
    told = json.loads((out / "mended.json").read_text(encoding="utf-8"))
    figures = {}
    for when in ("before", "after"):
        figures[f"predictions that a random shortcut turns, {when}"] = told[when]["changed"]["randomised"]
        figures[f"accuracy with the shortcut of another class, {when}"] = told[when]["accuracy"]["flipped"]
        figures[f"relevance in it, {when}"] = next(iter(told[when]["mass"].values()))
    return figures


def compas(data: Path) -> tuple[list[str], Tensor, Tensor]:
    """Names of the columns, people (N, 12), and whether their COMPAS score is medium or high."""
    with gzip.open(data / "compas/compas-scores-two-years.csv.gz", "rt", encoding="utf-8") as file:
        kept = [row for row in csv.DictReader(file) if _usable(row)]
    races = ("African-American", "Caucasian", "Hispanic")
    numbers = ("age", "priors_count", "juv_fel_count", "juv_misd_count", "juv_other_count", "days_b_screening_arrest")
    x = [
        [*(float(r[n]) for n in numbers), r["c_charge_degree"] == "F", r["sex"] == "Male"]
        + [r["race"] == race for race in races]
        + [r["race"] not in races]
        for r in kept
    ]
    header = [*numbers, "felony", "male", *(f"race_{race}" for race in races), "race_Other"]
    return header, torch.tensor(x).float(), torch.tensor([int(r["score_text"] != "Low") for r in kept])


def _usable(row: dict[str, str]) -> bool:
    days = row["days_b_screening_arrest"]
    known = row["is_recid"] != "-1" and row["c_charge_degree"] != "O" and row["score_text"] != "N/A"
    return known and bool(days) and abs(float(days)) <= 30


def prepare(make: Callable[[Path, Path], None], data: Path, out: Path) -> None:
    """Make model and data in a folder, beside the networks that the commands name."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    shutil.copy(HERE / "networks.py", out)
    make(data, out)


def main(make: Callable[[Path, Path], None], steps: str, found: Callable[[Path], dict[str, float]]) -> None:
    """The whole story of an example: make model and data, run the steps, tell what was found."""
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("data", type=Path, help="folder with mnist/, sst/, compas/, photos/; see README.md")
    parser.add_argument("--out", type=Path, default=None, help="folder of the results")
    given = parser.parse_args()
    out = given.out or Path(f"{Path(sys.argv[0]).stem}-out")
    prepare(make, given.data, out)
    shell(steps, out)
    print()
    for name, value in found(out).items():
        print(f"{name}: {100 * value:.1f} %")

"""What a user of the shell waits for: wall time of whole processes, warm, in interleaved rounds.

Python keeps the compiled modules, as in any installation, also where PYTHONDONTWRITEBYTECODE is set: without them
`xaikit list` takes half a second more.

python -m benchmarks.shell            # five rounds
python -m benchmarks.shell --rounds 9
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from benchmarks.measure import table
from xaikit.core.torchvision_ops import import_torchvision

# What cannot be avoided: torch, the model with its weights, the image, one forward pass.
BARE = """
import numpy, torch
from PIL import Image
from xaikit.core.torchvision_ops import import_torchvision
model = import_torchvision().models.resnet18(weights=None).eval()
model.load_state_dict(torch.load("w.pt", weights_only=True))
image = Image.open("photo.png").convert("RGB").resize((224, 224))
with torch.no_grad():
    model(torch.from_numpy(numpy.asarray(image, numpy.float32) / 255).permute(2, 0, 1)[None])
"""
EXPLAIN = ("explain", "photo.png", "--model", "torchvision:resnet18", "--weights", "w.pt", "--quiet", "--explainer")
COMMANDS = {
    "import torch": ("-c", "import torch"),
    "import torch, run resnet18": ("-c", BARE),
    "xaikit --help": ("-m", "xaikit", "--help"),
    "xaikit list": ("-m", "xaikit", "list"),
    "xaikit explain, gradient, no figure": ("-m", "xaikit", *EXPLAIN, "gradient", "--no-figure"),
    "xaikit explain, gradient, figure": ("-m", "xaikit", *EXPLAIN, "gradient"),
}


def seconds(arguments: tuple[str, ...], folder: str) -> tuple[float, float]:
    """Wall time and processor time of one process."""
    before, begun = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, os.times()
    own = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, own


def main(rounds: int) -> None:
    """Each command once unmeasured, which warms the disk's cache, then in turns."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "compiled")
        torch.save(import_torchvision().models.resnet18(weights=None).state_dict(), Path(folder) / "w.pt")
        Image.effect_noise((320, 240), 60).save(Path(folder) / "photo.png")
        for turn in range(rounds + 1):
            print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
            for name, arguments in COMMANDS.items():
                measured = seconds(arguments, folder)
                if turn:
                    found[name].append(measured)
    bare = [wall for wall, _ in found["import torch, run resnet18"]]
    rows: list[list[object]] = []
    for name, values in found.items():
        walls = [wall for wall, _ in values]
        more = statistics.median(a - b for a, b in zip(walls, bare, strict=True))
        own = statistics.median(cpu for _, cpu in values)
        rows.append(
            [
                name,
                statistics.median(walls),
                f"{min(walls):.2f} to {max(walls):.2f}",
                own,
                more if name.startswith("xaikit explain") else "",
            ]
        )
    head = ["command", "wall, median", "least to most", "processor", "wall, more than torch and the model"]
    table(f"Seconds from the shell, {rounds} interleaved rounds", head, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    main(parser.parse_args().rounds)

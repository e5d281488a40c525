"""Whether `xaikit mitigate` with its defaults, and each mitigator with its own, mend models that rely on a shortcut.

The worlds of `benchmarks.worlds` whose shortcut has a place. Accuracy on test samples whose shortcut tells another
class, the worst of all others, before and after, and of the oracle, which saw the same samples with the shortcut at
random.

    python -m benchmarks.mitigate                       # the command line, on converged models
    python -m benchmarks.mitigate --regimes cdep hint cdep/scratch    # in Python, from converged or untrained models

A regime is a mitigator with its defaults, or its spec string; "/scratch" behind it begins with untrained weights. The
lines are kept, so an interrupted run goes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.mend import Line, arguments, measured, truth
from benchmarks.papers import data
from benchmarks.worlds import World
from xaikit.core import MITIGATORS

SHELL = "xaikit mitigate"
PLACED = ("corner", "line", "decoy word")
NETWORK = """from benchmarks.papers import data
from benchmarks.worlds import WORLDS

make = WORLDS[{name!r}](data.folder({folder!r})).network
"""


def by_shell(world: World, folder: Path, fooled: nn.Module, seed: int) -> None:
    """Train a model with the command line, as it is without any option."""
    x, y, masks = world.samples("train", "same", seed)
    with tempfile.TemporaryDirectory() as text:
        here = Path(text)
        (here / "net.py").write_text(NETWORK.format(name=world.name, folder=str(folder.resolve())))
        np.savez(here / "data.npz", x=x.numpy(), y=y.numpy())
        assert masks is not None
        np.save(here / "masks.npy", masks.numpy())
        torch.save(fooled.state_dict(), here / "fooled.pt")
        files = ["--data", "data.npz", "--model", "net:make", "--weights", "fooled.pt", "--mask", "masks.npy"]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        command = [sys.executable, "-m", "xaikit", "mitigate", *files]
        subprocess.run(command, cwd=here, check=True, stdout=subprocess.DEVNULL, env=environment)
        fooled.load_state_dict(torch.load(here / "mended.pt"))


def by_method(world: World, method: str, model: nn.Module, seed: int) -> list[str]:
    """Train a model with a mitigator in Python; the warnings that it gives."""
    x, y, masks = world.samples("train", "same", seed)
    mitigator = MITIGATORS.create(method)
    mitigator = mitigator.set_kwargs(random_state=seed)
    if mitigator.MASK_NAME == "relevant_region":
        assert masks is not None
        masks = 1 - masks
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mitigator.fit(model, x, y, masks, progress=False)
    return [str(w.message) for w in caught]


def cell(world: World, regime: str, seed: int) -> Line:
    """One world and one way: `regime` names the method, and behind a slash "scratch" where the model is untrained."""
    method, _, anew = regime.partition("/")
    fooled, oracle = world.trained("same", seed=seed), world.trained("random", seed=seed)
    before = truth(world, fooled)
    started, caught = time.process_time(), []
    if method == SHELL:
        by_shell(world, data.folder(None), fooled, seed)
    else:
        model = world.trained("same", seed=seed, epochs=0) if anew else fooled
        caught = by_method(world, method, model.train(), seed)
        fooled = model
    return {
        "before": before[0],
        "after": truth(world, fooled)[0],
        "oracle": truth(world, oracle)[0],
        "kept": world.accuracy(fooled, world.samples("test", "same", seed)),
        "seconds": time.process_time() - started,
        "warnings": caught,
    }


def told(line: Line) -> str:
    """A row of the table."""
    figures = [f"{100 * line[name]:.1f}" for name in ("before", "after", "oracle", "kept")]
    row = [line["world"], line["regime"], str(line["seed"]), *figures, f"{100 * line['after'] / line['oracle']:.0f} %"]
    return "| " + " | ".join([*row, "; ".join(line["warnings"])]) + " |"


def run() -> None:
    """Print the table."""
    description = "Measure `xaikit mitigate` and the mitigators' defaults on planted shortcuts."
    args = arguments(description, "build/mitigate.jsonl", (SHELL,), PLACED, others=True)
    print("| world | method | seed | before | after | oracle | kept | of the oracle | warnings |")
    print("|---|---|---|---|---|---|---|---|---|")
    cells = ((name, regime, seed) for seed in args.seeds for regime in args.regimes for name in args.worlds)
    lines = []
    for line in measured(args.lines, cells, data.folder(None), cell):
        lines.append(line)
        print(told(line), flush=True)
    reached = sum(line["after"] >= 0.9 * line["oracle"] for line in lines)
    print(f"at least 90 % of the oracle: {reached} of {len(lines)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    run()

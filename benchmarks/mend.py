"""Whether `mend` takes planted shortcuts away, from a converged model and from scratch, and whether `assess` tells it.

For each world of `benchmarks.worlds` and both regimes: accuracy on test samples whose shortcut tells another class, the
worst of all other classes, of the fooled model, of the mended one, and of the oracle, which saw the same samples with
the shortcut at random. Beside it whether the verdict of `assess` agrees with what is known: a model relies on its
shortcut if more than a tenth of its predictions go over to the class that it tells. And the time of `mend`.

    python -m benchmarks.mend --seeds 0 1 --lines build/mend.jsonl

The lines are kept, so an interrupted run goes on; `--worlds` and `--regimes` choose some. "time" is that of `mend` over
one plain training of as many epochs as its longest one, "of its own" over the training that made the fooled model.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.papers import data
from benchmarks.unseen import UNSEEN
from benchmarks.worlds import WORLDS, World
from xaikit import assess
from xaikit.mitigation import mend

REGIMES = ("converged", "from scratch")
RELIES = 0.1  # of the predictions that follow the shortcut
CLOSE = 0.03  # to the oracle
ALL = {**WORLDS, **UNSEEN}
Line = dict[str, Any]


def truth(world: World, model: nn.Module, seed: int = 0) -> tuple[float, float]:
    """The lowest accuracy with the shortcut of another class, and the largest share of predictions that follow it."""
    samples = [world.shifted("test", shift, seed) for shift in range(world.classes)]
    predicted = [world.predicted(model, part) for part in samples]
    labels, accuracies, follows = samples[0].y, [], []
    for shift in range(1, world.classes):
        shown = (labels + shift) % world.classes
        accuracies.append(float((predicted[shift] == labels).float().mean()))
        follows.append(float(((predicted[shift] == shown) & (predicted[0] != shown)).float().mean()))
    return min(accuracies), max(follows)


def verdict(world: World, model: nn.Module, seed: int) -> bool:
    """Whether `assess` says that the model relies on the shortcut."""
    x, y, masks = world.samples("test", "same", seed)
    batch = (x, y) if world.factor else (x, y, masks)
    result = assess(model, batch, factor=world.factor, facts=world.facts, explainers=(), seed=seed, progress=False)
    return bool(result.relies)


def plain_seconds(world: World, seed: int) -> float:
    """Process time of one epoch of plain training on as many samples as `mend` trains on, the median of five."""
    x, y, _ = world.samples("train", "same", seed)
    model = world.network()
    optimizer = torch.optim.Adam(model.parameters())
    seconds = []
    for _ in range(5):
        started = time.process_time()
        for rows in torch.randperm(len(y))[: round(0.8 * len(y))].split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
        seconds.append(time.process_time() - started)
    return sorted(seconds)[2]


def cell(world: World, regime: str, seed: int) -> Line:
    """One world in one regime."""
    fooled, oracle = world.trained("same", seed=seed), world.trained("random", seed=seed)
    x, y, masks = world.samples("train", "same", seed)
    batch, shortcut = ((x, y), world.factor) if world.factor else ((x, y, masks), "region")
    started = time.process_time()
    result = mend(
        fooled, batch, shortcut, from_scratch=regime == "from scratch", facts=world.facts, seed=seed, progress=False
    )
    seconds = time.process_time() - started
    assert result.model is not None
    before, after = truth(world, fooled), truth(world, result.model)
    epoch = plain_seconds(world, seed)
    longest = max(row.epochs for row in result.tries)
    return {
        "before": before[0],
        "after": after[0],
        "oracle": truth(world, oracle)[0],
        "kept": world.accuracy(result.model, world.samples("test", "same")),
        "follows": [before[1], after[1]],
        "relies": [verdict(world, model, seed) for model in (fooled, result.model)],
        "seconds": seconds,
        "over a training as long": seconds / (epoch * max(1, longest)),
        "over the model's own training": seconds / (epoch * world.epochs),
        "method": result.method,
        "tries": [[row.method, row.accuracy_kept, row.accuracy_exchanged, row.epochs] for row in result.tries],
    }


def agrees(line: Line) -> bool:
    """Whether the verdict is right, before and after."""
    return [follows > RELIES for follows in line["follows"]] == line["relies"]


def kept_lines(path: Path) -> dict[tuple[str, str, int], Line]:
    """The lines of earlier runs; one that was cut off is left out."""
    lines = {}
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        lines[line["world"], line["regime"], line["seed"]] = line
    return lines


def measured(
    path: Path, cells: Iterator[tuple[str, str, int]], folder: Path, measure: Callable[[World, str, int], Line]
) -> Iterator[Line]:
    """A line for each cell, from the file or measured now."""
    lines = kept_lines(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    for name, regime, seed in cells:
        if (name, regime, seed) not in lines:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = measure(ALL[name](folder), regime, seed)
            lines[name, regime, seed] = {"world": name, "regime": regime, "seed": seed, **values}
            with path.open("a") as file:
                file.write(json.dumps(lines[name, regime, seed]) + "\n")
        yield lines[name, regime, seed]


def told(line: Line) -> str:
    """A row of the table."""
    figures = [f"{100 * line[name]:.1f}" for name in ("before", "after", "oracle")]
    reached = "yes" if line["after"] >= line["oracle"] - CLOSE else f"NO, {100 * (line['oracle'] - line['after']):.1f}"
    verdicts = ", ".join(
        f"{'relies' if relies else 'free'} ({100 * follows:.0f} %)"
        for relies, follows in zip(line["relies"], line["follows"], strict=True)
    )
    times = [f"{line[name]:.1f}" for name in ("over a training as long", "over the model's own training")]
    row = [line["world"], line["regime"], str(line["seed"]), *figures, reached, verdicts, *times, line["method"]]
    return "| " + " | ".join(row) + " |"


def run(args: argparse.Namespace, folder: Path) -> None:
    """Print the table and the figures."""
    cells = ((name, regime, seed) for seed in args.seeds for regime in args.regimes for name in args.worlds)
    print(
        "| world | regime | seed | before | mended | oracle | within 3 | verdict (truth) | time | of its own | method |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    lines = []
    for line in measured(args.lines, cells, folder, cell):
        lines.append(line)
        print(told(line), flush=True)
    reached = sum(line["after"] >= line["oracle"] - CLOSE for line in lines)
    times = sorted(line["over a training as long"] for line in lines)
    print(
        f"within 3 points of the oracle: {reached} of {len(lines)}; verdicts right before and after: "
        f"{sum(map(agrees, lines))} of {len(lines)}; time over a plain training as long: {times[0]:.1f} to "
        f"{times[-1]:.1f}, median {times[len(times) // 2]:.1f}, {sum(t <= 6 for t in times)} of {len(lines)} at most 6"
    )


def arguments(
    description: str, lines: str, regimes: Sequence[str], worlds: Sequence[str], *, others: bool = False
) -> argparse.Namespace:
    """What the command line asks for, with these defaults; `others` allows regimes beside them."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--worlds", nargs="+", choices=ALL, default=list(worlds))
    parser.add_argument("--regimes", nargs="+", choices=None if others else regimes, default=list(regimes))
    parser.add_argument("--lines", type=Path, default=Path(lines), help="kept lines; remove the file to measure anew")
    return parser.parse_args()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run(
        arguments("Measure `mend` on planted shortcuts.", "build/mend.jsonl", REGIMES, tuple(WORLDS)), data.folder(None)
    )

"""Whether a scan finds the planted shortcut of each world, and names no suspect on the oracle.

For each world of `benchmarks.worlds`: the factor that a scan ranks first on the fooled model, the share of predictions
that follow it, and the suspects that it names on the oracle, which saw the same data with the shortcut at random.

    python -m benchmarks.scan --seeds 0 1 2
    python -m benchmarks.scan --unseen      # the worlds of `benchmarks.unseen`
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.papers import data
from benchmarks.unseen import UNSEEN
from benchmarks.worlds import WORLDS, World
from xaikit.shortcuts import scan


def run(path: Path, worlds: Mapping[str, Callable[[Path], World]], seed: int) -> None:
    """Print a line for each world, and the two counts."""
    ranked = clean = 0
    for name, make in worlds.items():
        world = make(path)
        x, y, _ = world.samples("test", "same")
        fooled, oracle = world.trained("same", seed=seed), world.trained("random", seed=seed)
        begin = time.process_time()
        result = scan(fooled, (x, y), facts=world.facts, seed=seed, progress=False)
        seconds = time.process_time() - begin
        suspects = [e.title for e in scan(oracle, (x, y), facts=world.facts, seed=seed, progress=False).suspects]
        first = result.effects[0]
        ranked += first.title in world.names
        clean += not suspects
        print(
            f"{name:14} first: {first.title:18} {100 * first.follows.mean:5.1f} % follow it "
            f"({'right' if first.title in world.names else 'WRONG'}); suspects on the oracle: "
            f"{', '.join(suspects) or 'none'}; {len(result.effects)} factors, {len(y)} samples, {seconds:.1f} s",
            flush=True,
        )
    print(f"seed {seed}; ranked first: {ranked} of {len(worlds)}; no suspect on the oracle: {clean} of {len(worlds)}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description="Scan models with planted shortcuts.")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--unseen", action="store_true", help="the worlds on which nothing was tuned")
    options = parser.parse_args()
    for each in options.seeds:
        run(data.folder(None), UNSEEN if options.unseen else WORLDS, each)

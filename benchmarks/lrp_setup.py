"""Set-up of LRP over the whole call, from the second call on.

    python -m benchmarks.lrp_setup [--calls 200]

Set-up of LRP: composite, look-up of every rule, hooks on and off, canonizers. The last column adds what every explainer
does before its passes: the private copy of the modules. Each figure is the median,
over the quickest tenth of the calls (other processes slow the passes more than the set-up, which would flatter it), of
time in set-up / time of the call; the clock's own cost counts as set-up.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import statistics
import time

import torch
from torch import nn

from xaikit.core import model_state
from xaikit.explainers.lrp import (
    LRP,
    AttnLRP,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPUniformEpsilon,
    engine,
    trace,
    zennit_rules,
)

KINDS = (LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonGammaBox, LRPEpsilonAlpha2Beta1, LRP, AttnLRP)


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ).eval()  # fmt: skip


class Clock:
    """Adds up the time inside some functions, and inside the entry and exit of some context managers."""

    def __init__(self):
        self.total = 0.0

    def timed(self, run, *args, **kwargs):
        start = time.perf_counter()
        try:
            return run(*args, **kwargs)
        finally:
            self.total += time.perf_counter() - start

    def watch(self, owner, name):
        plain = getattr(owner, name)
        setattr(owner, name, functools.wraps(plain)(lambda *a, **k: self.timed(plain, *a, **k)))

    def watch_context(self, owner, name):
        plain = getattr(owner, name)

        @contextlib.contextmanager
        def timed(*args, **kwargs):
            context = plain(*args, **kwargs)
            value = self.timed(context.__enter__)
            try:
                yield value
            finally:
                self.timed(context.__exit__, None, None, None)

        setattr(owner, name, timed)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=200)
    calls = parser.parse_args().calls
    torch.set_num_threads(1)
    own, shared = Clock(), Clock()
    for owner, name in (
        (zennit_rules.Rules, "of_module"),
        (zennit_rules.Rules, "of_operation"),
        *((kind, "_make_composite") for kind in KINDS),
    ):
        own.watch(owner, name)
    own.watch_context(trace.Trace, "_modules")
    own.watch_context(engine, "canonized")
    shared.watch(model_state, "modules_of")
    shared.watch(model_state, "Replica")
    print("| LeNet on a CPU | ms per call | set-up of LRP | with every explainer's |\n|---|---|---|---|")
    model = lenet()
    for batch in (1, 32):
        x, y = torch.randn(batch, 1, 28, 28), torch.zeros(batch, dtype=torch.long)
        for kind in KINDS:
            explainer, rows = kind(model), []
            for _ in range(calls):
                own.total = shared.total = 0.0
                start = time.perf_counter()
                explainer.attribute(x, y)
                whole = time.perf_counter() - start
                rows.append((whole * 1e3, own.total / whole, (own.total + shared.total) / whole))
            quickest = sorted(rows[1:])[: max(1, calls // 10)]
            ms, share, all_of_it = (statistics.median(column) for column in zip(*quickest, strict=True))
            print(f"| batch {batch}, {kind.__name__} | {ms:.2f} | {share:.1%} | {all_of_it:.1%} |", flush=True)


if __name__ == "__main__":
    main()

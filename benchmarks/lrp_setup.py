"""Set-up of LRP over the whole call, from the second call on: composite, look-up of rules, hooks on and off.

python benchmarks/lrp_setup.py
"""

from __future__ import annotations

import time

import torch
from torch import nn

from xaikit.explainers.lrp import LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon, live


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    ).eval()  # fmt: skip


class Clock:
    """Counts the time inside some functions."""

    def __init__(self):
        self.total = 0.0

    def watch(self, owner, name):
        plain = getattr(owner, name)

        def timed(*args, **kwargs):
            start = time.perf_counter()
            result = plain(*args, **kwargs)
            self.total += time.perf_counter() - start
            return result

        setattr(owner, name, timed)


def main(calls=50):
    torch.set_num_threads(1)
    model, clock = lenet(), Clock()
    kinds = (LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonGammaBox)
    for owner, names in (
        (live.Rules, ("of_module",)),
        (nn.Module, ("register_forward_pre_hook", "register_forward_hook")),
        (torch.utils.hooks.RemovableHandle, ("remove",)),
        *((kind, ("_make_composite",)) for kind in kinds),
    ):
        for name in names:
            clock.watch(owner, name)
    for batch in (1, 32):
        x, y = torch.randn(batch, 1, 28, 28), torch.zeros(batch, dtype=torch.long)
        for kind in kinds:
            explainer = kind(model)
            explainer.attribute(x, y)
            clock.total, start = 0.0, time.perf_counter()
            for _ in range(calls):
                explainer.attribute(x, y)
            whole = time.perf_counter() - start
            took = f"{whole / calls * 1e3:6.2f} ms, set-up {clock.total / whole:.1%}"
            print(f"LeNet, batch {batch:2d}, {kind.__name__:20s} {took}")


if __name__ == "__main__":
    main()

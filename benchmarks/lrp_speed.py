"""Time of LRP over the passes that cannot be avoided, beside zennit with its canonizer, in one process.

    python -m benchmarks.lrp_speed [--size 224] [--batch 8] [--rounds 7] [--no-zennit]

Each figure is the median, over interleaved rounds, of a column's processor time on one thread divided by the mean of
the two raw timings around it; raw is one forward and one input-only backward pass of resnet18.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks.measure import seconds
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.lrp import LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon

REACH = {LRPUniformEpsilon: 1.4, LRPEpsilonPlus: 2.0, LRPEpsilonGammaBox: 3.6, LRPEpsilonAlpha2Beta1: 3.5}


def main():
    models = import_torchvision().models
    from zennit.torchvision import ResNetCanonizer

    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-zennit", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = models.resnet18(weights=None).eval()
    x, y = torch.randn(options.batch, 3, options.size, options.size), torch.arange(options.batch)

    def raw():
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf).gather(1, y[:, None]).sum(), leaf)

    def zennit_run(kind):
        def run():
            composite = kind(model)._make_composite()
            composite.canonizers = [ResNetCanonizer()]
            leaf = x.clone().requires_grad_()
            with composite.context(model) as modified:
                output = modified(leaf)
                seed = torch.zeros_like(output).scatter_(1, y[:, None], 1.0) * output.detach()
                torch.autograd.grad(output, leaf, seed)

        return run

    columns = {}
    for kind in REACH:
        columns[kind.__name__, "xaikit"] = lambda kind=kind: kind(model).attribute(x, y)
        if not options.no_zennit:
            columns[kind.__name__, "zennit"] = zennit_run(kind)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    ratios = {key: [] for key in columns}
    raw()
    for _ in range(options.rounds):
        before = seconds(raw)
        for key, run in columns.items():
            taken, after = seconds(run), seconds(raw)
            ratios[key].append(taken / ((before + after) / 2))
            before = after
    print(f"resnet18 {options.size}x{options.size}, batch {options.batch}; raw {before * 1e3:.0f} ms")
    for kind, reach in REACH.items():
        figures = {who: statistics.median(values) for (name, who), values in ratios.items() if name == kind.__name__}
        shown = "   ".join(f"{who} {ratio:.2f}" for who, ratio in figures.items())
        print(f"{kind.__name__:24s} reach {reach}: {shown}")


if __name__ == "__main__":
    main()

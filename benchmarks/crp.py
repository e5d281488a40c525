"""CRP: the time of 64 conditions at once over one backward pass each, and what their sum misses of the relevance.

python -m benchmarks.crp
"""

from __future__ import annotations

import statistics
import warnings
from unittest import mock

import torch

from benchmarks.measure import lenet, resnet18, seconds, table
from xaikit.explainers import LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.explainers.lrp import conditional_relevance

CONDITIONS, ROUNDS = 64, 5
CASES = (  # net, layer, pixels, batch
    (lenet, "3", 28, 1),
    (lenet, "3", 28, 8),
    (resnet18, "layer1", 64, 1),
    (resnet18, "layer3", 64, 1),
    (resnet18, "layer4", 64, 1),
    (resnet18, "layer3", 64, 8),
    (resnet18, "layer4", 64, 8),
    (resnet18, "layer3", 32, 8),
)


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for cls in (LRPEpsilonPlus, LRPUniformEpsilon):
        for net, layer, size, n in CASES:
            model, channels = net(), 1 if net is lenet else 3
            x, y, explainer = torch.randn(n, channels, size, size), torch.zeros(n, dtype=torch.long), cls(model)
            conditions = [{layer: k % 50 if net is lenet else k} for k in range(CONDITIONS)]

            def together(explainer=explainer, x=x, y=y, conditions=conditions) -> torch.Tensor:
                return conditional_relevance(explainer, x, y, conditions=conditions)

            def one_backward_each(together=together) -> torch.Tensor:
                with mock.patch.object(torch.func, "vmap", side_effect=RuntimeError):
                    return together()

            parts, relevance = together(), explainer.attribute(x, y)
            # layer1 has 64 channels, so the conditions are all of it.
            missed = (
                float((parts.sum(0) - relevance).abs().max() / relevance.abs().max()) if layer == "layer1" else None
            )
            difference = (parts - one_backward_each()).abs().max() / parts.abs().max()
            ratios = [seconds(together) / seconds(one_backward_each) for _ in range(ROUNDS)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            rows.append(
                [cls.NAME, net.__name__, layer, f"{n} x {channels} x {size} x {size}", spread, f"{difference:.0e}",
                 "" if missed is None else f"{missed:.0e}"]
            )  # fmt: skip
    head = [
        "explainer",
        "net",
        "layer",
        "batch",
        "64 at once over one backward each",
        "largest difference",
        "sum misses",
    ]
    table("CRP, float32, one thread", head, rows)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()

"""DeepLIFT: how far the attributions miss S(x) - S(baseline) on random nets, beside captum's; and its time.

python -m benchmarks.deeplift
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from benchmarks.measure import frozen, gradient_pass, paired, table
from tests.random_nets.nets import Case, build
from xaikit import EXPLAINERS
from xaikit.core.errors import XaikitError
from xaikit.core.structure import flatten

NETS, BASELINE = 100, 0.3
LIMITS = (1e-8, 1e-4, 1e-2)


def miss(case: Case, name: str) -> float | None:
    """The largest gap of a sample over the size of the sum of its attributions; None for a net that is refused."""
    settings: dict[str, Any] = {"baseline": BASELINE}
    settings |= {"head": 0} if case.net.output == "tuple" else {}
    settings |= {} if case.layer is None else {"layer": case.layer}
    try:
        result = EXPLAINERS.get(name)(case.net, **settings).explain(case.inputs, case.targets)
    except XaikitError:
        return None
    values = flatten(result.values)[0]
    gap = result.gap
    assert gap is not None
    promised = sum(v.reshape(len(v), -1).sum(1) for v in values) - gap  # the size, to the order of the gap
    return float((gap / promised.abs().clamp_min(1e-3 * float(result.scores.abs().max()))).max())


def small_cnn() -> nn.Sequential:
    """Convolution, BatchNorm, ReLU, pooling, in the usual order."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(64, 10),
    ).eval()  # fmt: skip


def main() -> None:
    cases = [build(seed) for seed in range(NETS)]
    rows = []
    for name in ("deep_lift", "captum.deep_lift"):
        misses = [miss(case, name) for case in cases]
        known = [m for m in misses if m is not None]
        counts = [sum(m > limit for m in known) for limit in LIMITS]
        rows.append([name, len(known), *counts, f"{max(known):.1g}"])
    head = ["method", "explained", *(f"miss by > {limit:g}" for limit in LIMITS), "largest miss"]
    table(f"Completeness on {NETS} random nets, baseline {BASELINE}", head, rows)
    model, x = small_cnn(), torch.randn(16, 3, 32, 32)

    with frozen(model):
        columns: dict[str, Callable[[], object]] = {
            "gradient of 32 rows": lambda: gradient_pass(model, torch.cat([x, x]))
        }
        for name in ("lrp_epsilon_plus", "deep_lift", "captum.deep_lift"):
            explainer = EXPLAINERS.create(name).bind(model)
            columns[name] = lambda e=explainer: e.attribute(x, 1)
        ratios = paired(columns, lambda: gradient_pass(model, x))
    table("Time over forward and backward of a small CNN, 16 x 3 x 32 x 32", ["what", "ratio"],
          [[what, f"{ratio:.2f}"] for what, ratio in ratios.items()])  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()

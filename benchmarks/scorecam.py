"""ScoreCAM on a resnet18 at 224 pixels: its time over as many plain passes in the best batch.

python -m benchmarks.scorecam [LAYER] [BATCH]
"""

from __future__ import annotations

import sys

import torch

from benchmarks.measure import frozen, resnet18, seconds, table
from xaikit.core import EXPLAINERS

SIDE, SIZES = 224, (4, 8, 16)
LIMIT = 64  # rows of the plain passes that are timed before and after


def main(layer: str = "layer4", n: int = 1) -> None:
    torch.manual_seed(0)
    model, x = resnet18(), torch.randn(n, 3, SIDE, SIDE)
    channels = next(m.bias.numel() for m in reversed(list(model.get_submodule(layer).modules())) if hasattr(m, "bias"))
    explainer = EXPLAINERS.create("scorecam", target_layer=layer).bind(model)

    def a_row(size: int, rows: int) -> float:
        """Seconds of a row, in passes of so many rows without a gradient."""
        batch = torch.randn(size, 3, SIDE, SIDE)
        with torch.no_grad():
            return sum(seconds(lambda: model(batch)) for _ in range(rows // size)) / rows

    with frozen(model):
        a_row(8, 8)
        times = {size: min(a_row(size, size) for _ in range(2)) for size in SIZES}
        best = min(times, key=times.__getitem__)
        explainer.attribute(torch.randn(1, 3, SIDE, SIDE)[:, :, :32, :32], 0)  # what a first call asks of the model
        before = a_row(best, LIMIT)
        own = seconds(lambda: explainer.attribute(x, 0))
        ratio = own / ((before + a_row(best, LIMIT)) / 2 * channels * n)
    batches = ", ".join(f"{size}: {1e3 * time:.0f}" for size, time in times.items())
    rows = [[layer, f"{n} x 3 x {SIDE} x {SIDE}", channels * n, ratio, batches]]
    head = ["layer", "batch", "passes", "time over the passes in the best batch", "ms a row, by batch"]
    table("ScoreCAM on a resnet18, float32, one thread", head, rows)


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))

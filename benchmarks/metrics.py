"""AbPC's time over the forward passes that cannot be avoided; Quantus beside it where it is installed.

Run as ``python -m benchmarks.metrics``. AbPC of K steps needs 2 K rows per sample: both curves, their ends shared.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.measure import lenet, paired, resnet18, seconds, table
from xaikit.explainers import Gradient
from xaikit.metrics import AbPC

STEPS = 10


def forward(model: nn.Module, x: Tensor, rows: int) -> None:
    """`rows` rows of plain inference in passes of x's size."""
    with torch.no_grad():
        for start in range(0, rows, len(x)):
            model(x[: rows - start])


def of_size(x: Tensor, size: int) -> Tensor:
    """A batch of that many different samples: copies of one run up to a third faster (branches are foretold)."""
    rows = x.repeat(-(-size // len(x)), *[1] * (x.ndim - 1))[:size]
    return rows + 0.01 * torch.rand_like(rows)


def best_size(model: nn.Module, x: Tensor, sizes: tuple[int, ...] = (4, 8, 16, 32, 64)) -> int:
    """The number of rows at which plain inference is cheapest per row."""

    batches = {size: of_size(x, size) for size in sizes}
    least = dict.fromkeys(sizes, float("inf"))
    # Sizes take turns, so that a disturbance meets all of them.
    for _ in range(12):
        for size, rows in batches.items():
            least[size] = min(least[size], seconds(lambda r=rows: forward(model, r, sizes[-1])))
    return min(sizes, key=least.__getitem__)


def quantus_flipping(model: nn.Module, x: Tensor, y: Tensor, a: Tensor) -> Callable[[], object] | None:
    """Quantus' PixelFlipping in eight steps (its steps must divide the features), or None where it is absent."""
    try:
        import quantus
    except ImportError:
        return None
    per_step = x[0, 0].numel() // 8
    metric = quantus.PixelFlipping(features_in_step=per_step, perturb_baseline="black", disable_warnings=True)
    arrays = {"x_batch": x.numpy(), "y_batch": y.numpy(), "a_batch": a.numpy()}
    return lambda: metric(model=model, **arrays, device="cpu", softmax=True, batch_size=len(x), channel_first=True)


def rows_of(model: nn.Module, run: Callable[[], object]) -> int:
    """How many rows the model sees."""
    seen: list[int] = []
    handle = model.register_forward_hook(lambda _m, inputs, _out: seen.append(len(inputs[0])))
    run()
    handle.remove()
    return sum(seen)


def main(rounds: int) -> None:
    torch.manual_seed(0)
    rows = []
    for name, model, x in (
        ("LeNet, batch 64", lenet(), torch.rand(64, 1, 28, 28)),
        ("resnet18 64 px, batch 8", resnet18(), torch.rand(8, 3, 64, 64)),
    ):
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        y = torch.arange(len(x)) % 10
        a = Gradient(model).attribute(x, y)
        size = best_size(model, x)
        batch = of_size(x, size)
        passes = 2 * STEPS * len(x)
        ours = {"AbPC": lambda m=model, x=x, y=y, a=a: AbPC(n_steps=STEPS).evaluate(Gradient(m), x, y, a)}
        ratio = paired(ours, lambda m=model, b=batch, p=passes: forward(m, b, p), rounds=rounds)["AbPC"]
        theirs = quantus_flipping(model, x, y, a)
        peer: object = "-"
        if theirs is not None:
            passes = rows_of(model, theirs)
            with contextlib.redirect_stdout(None):
                peer = paired({"q": theirs}, lambda m=model, b=batch, p=passes: forward(m, b, p), rounds=rounds)["q"]
        rows.append([name, size, ratio, peer])
    table(
        f"Pixel flipping, {STEPS} steps: time over the passes that cannot be avoided",
        ["", "rows in the best pass", "AbPC (two curves)", "Quantus PixelFlipping (one curve)"],
        rows,
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 9)

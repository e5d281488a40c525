"""How we measure: ratios in one process against the passes that cannot be avoided, and peak memory."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from xaikit.metrics import cost

torch.set_num_threads(1)


def gradient_pass(model: nn.Module, x: Tensor) -> None:
    """Forward and input-only backward: the least that one gradient costs (parameters frozen by the caller)."""
    x = x.detach().requires_grad_()
    torch.autograd.grad(model(x)[:, 0].sum(), x)


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter requires a gradient inside."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def best_batch(model: nn.Module, x: Tensor, sizes: tuple[int, ...] = (8, 16, 32, 64)) -> int:
    """The number of rows at which a gradient pass is cheapest per row."""

    def per_row(size: int) -> float:
        rows = torch.randn(size, *x.shape[1:])  # different samples: copies of one run up to 25 % faster
        gradient_pass(model, rows)
        return min(seconds(lambda: gradient_pass(model, rows)) for _ in range(4)) / size

    return min(sizes, key=per_row)


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one run: with one thread it is what an idle machine's clock would show."""
    start = time.process_time()
    run()
    return time.process_time() - start


def paired(
    columns: dict[str, Callable[[], object]], limit: Callable[[], object], *, rounds: int = 7, scale: float = 1
) -> dict[str, float]:
    """Median over rounds of each column's time over `scale` times the limit's, timed before and after each column."""
    for run in (*columns.values(), limit):
        run()
    ratios: dict[str, list[float]] = {name: [] for name in columns}
    for _ in range(rounds):
        before = seconds(limit)
        for name, run in columns.items():
            own = seconds(run)
            after = seconds(limit)
            ratios[name].append(own / (scale * (before + after) / 2))
            before = after
    return {name: statistics.median(values) for name, values in ratios.items()}


def peak_memory(run: Callable[[], object]) -> float:
    """Peak of the tensor memory allocated above the level before, in MiB, in a second call."""
    run()
    return cost.peak_memory(run)


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(800, 64), nn.ReLU(), nn.Linear(64, 10),
    ).eval()  # fmt: skip


def resnet18() -> nn.Module:
    from xaikit.core.torchvision_ops import import_torchvision

    return import_torchvision().models.resnet18(num_classes=10).eval()


def table(title: str, head: list[str], rows: list[list[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{v:.3g}' if isinstance(v, float) else str(v) for v in row)} |", flush=True)

"""How many rows to stack into one forward pass: enough to run fast, few enough to bound memory."""

from __future__ import annotations

from torch import Tensor

from xaikit.core.errors import InvalidInputError

# Measured with benchmarks/noise.py on one CPU thread: a resnet18 on 64 x 64 images is within 7 % of its best speed
# from 16 rows on, a LeNet fastest at 32; larger passes leave the cache and cost memory. A GPU wants more rows.
CPU_VALUES, CPU_ROWS = 2**18, 32
GPU_VALUES, GPU_ROWS = 2**24, 512
LEAST_ROWS = 4


def rows_per_pass(inputs: tuple[Tensor, ...], max_rows: int | None = None) -> int:
    """Most rows in a pass for inputs shaped (N, ...)."""
    if max_rows is not None:
        if max_rows < 1:
            raise InvalidInputError(f"max_rows must be at least 1, got {max_rows}")
        return max_rows
    values = max(1, sum(x[0].numel() for x in inputs))
    on_cpu = inputs[0].device.type == "cpu"
    budget, most = (CPU_VALUES, CPU_ROWS) if on_cpu else (GPU_VALUES, GPU_ROWS)
    return min(most, max(LEAST_ROWS, budget // values))


def even_ranges(total: int, limit: int) -> list[range]:
    """0..total cut into the fewest ranges of at most `limit`, of nearly equal length."""
    count = -(-total // limit)
    edges = [total * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in zip(edges, edges[1:], strict=False)]

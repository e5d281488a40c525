"""Random numbers of the metrics: the same for every sample, alone and in whatever batch."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xaikit.core.structure import Tensors


def normal_draws(inputs: Tensors, count: int, seed: int) -> list[Tensor]:
    """Standard normal numbers of the shape of a sample, one tensor (count, ...) per input."""
    return _draws(torch.randn, inputs, count, seed)


def uniform_draws(inputs: Tensors, count: int, seed: int) -> list[Tensor]:
    """Uniform numbers in [0, 1) of the shape of a sample, one tensor (count, ...) per input."""
    return _draws(torch.rand, inputs, count, seed)


def random_keys(sizes: tuple[int, ...], n_iter: int, seed: int) -> Tensor:
    """Uniform numbers (n_iter, P) that depend on a feature's position in its input, not on the number of features."""
    columns = []
    for index, size in enumerate(sizes):
        generator = torch.Generator().manual_seed(seed + index)
        # Drawn feature by feature, since torch's numbers depend on the size of a draw, and batches differ in size.
        columns += [torch.rand(n_iter, generator=generator, device="cpu") for _ in range(size)]
    return torch.stack(columns, 1)


def _draws(draw: Callable[..., Tensor], inputs: Tensors, count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = [[draw(x.shape[1:], generator=generator, device="cpu") for x in inputs] for _ in range(count)]
    return [torch.stack(column).to(x) for column, x in zip(zip(*rows, strict=True), inputs, strict=True)]

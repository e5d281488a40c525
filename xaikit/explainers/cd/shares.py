"""The undecided share: how much of a constant is relevant where neither part decides.

It has one value per mask, shape (masks,), or, where the samples of a batch have masks of their own, one value per mask
and sample, shape (masks, *dims) with the sizes of the tensor it belongs to or 1. The second form has to follow the
batch axis through reshapes and permutations; these helpers do that without ever expanding it to the size of the tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from xaikit.core.errors import UnsupportedOperationError
from xaikit.torch_ops import calling_module

ATTENTION_MASK = 1e4
"""Constants at or below minus this are attention masks: they take no share, both parts get half."""


class ShareLostError(UnsupportedOperationError):
    """The share of each sample could not be followed through an op; masks that all samples share need no following."""

    def __init__(self, old: Sequence[int], new: Sequence[int]) -> None:
        super().__init__(
            f"masks of their own for the samples of a batch cannot be followed from shape {tuple(old)} to "
            f"{tuple(new)} in {calling_module()}; use masks that all samples share, or one sample at a time"
        )


def is_attention_mask(constant: Tensor) -> Tensor:
    """Where a constant is an attention mask; a complex one never is."""
    return torch.zeros_like(constant, dtype=torch.bool) if constant.is_complex() else constant <= -ATTENTION_MASK


def is_uniform(share: Tensor) -> bool:
    """Whether the share is the same for all samples."""
    return share.dim() == 1


def aligned(share: Tensor, ndim: int) -> Tensor:
    """The share with as many dimensions behind the mask axis as asked for, by broadcasting rules."""
    missing = ndim - (share.dim() - 1)
    return share.reshape(share.shape[0], *[1] * missing, *share.shape[1:])


def fits(share: Tensor, shape: Sequence[int]) -> bool:
    """Whether the share broadcasts to a tensor of this shape, dimension by dimension."""
    sizes = share.shape[1:]
    return is_uniform(share) or (
        len(sizes) == len(shape) and all(size in (1, full) for size, full in zip(sizes, shape, strict=True))
    )


def merged(first: Tensor, second: Tensor, ndim: int) -> Tensor:
    """The share of a value made of two: equal shares stay as they are, others are averaged."""
    if first is second:
        return first if is_uniform(first) else aligned(first, ndim)
    if is_uniform(first) and is_uniform(second):
        return 0.5 * (first + second)
    return 0.5 * (aligned(first, ndim) + aligned(second, ndim))


def without_dim(share: Tensor, dim: int) -> Tensor:
    """The share after a map that mixes one dimension (negative index), which keeps that dimension with size 1."""
    return share if is_uniform(share) or share.shape[dim] == 1 else share.mean(dim, keepdim=True)


def restructured(share: Tensor, shape: Sequence[int], change: Callable[[Tensor], Tensor]) -> Tensor:
    """The share after a change of structure such as a permutation, given the shape of its tensor before.

    The change sees the share expanded to the full shape, which costs nothing for views; the dimensions along which the
    result does not vary (stride 0) shrink back to 1.
    """
    if is_uniform(share):
        return share
    result = change(share.expand(share.shape[0], *shape).unsqueeze(0))[0]
    for dim in range(1, result.dim()):
        if result.stride(dim) == 0 and result.shape[dim] > 1:
            result = result.narrow(dim, 0, 1)
    return result


def reshaped(share: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """The share after its tensor was reshaped from one shape to another.

    Both shapes are cut into the shortest runs of dimensions with equal products; a run along which the share is
    constant stays constant, and only the others are expanded.
    """
    if is_uniform(share):
        return share
    expanded, target = [share.shape[0]], [share.shape[0]]
    for old_run, new_run in _runs(old, new):
        sizes = [share.shape[1 + dim] for dim in old_run]
        constant = all(size == 1 for size in sizes)
        expanded += sizes if constant else [old[dim] for dim in old_run]
        target += [1 if constant else new[dim] for dim in new_run]
    return share.expand(expanded).reshape(target)


def _runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[range, range]]:
    runs, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        start_i, start_j = i, j
        i, j = min(i + 1, len(old)), min(j + 1, len(new))
        while prod(old[start_i:i]) != prod(new[start_j:j]) and (i < len(old) or j < len(new)):
            if j == len(new) or (i < len(old) and prod(old[start_i:i]) < prod(new[start_j:j])):
                i += 1
            else:
                j += 1
        runs.append((range(start_i, i), range(start_j, j)))
    return runs


def as_pair(share: Tensor, ndim: int) -> Tensor:
    """The shares of the relevant and the irrelevant part, stacked, to be broadcast against a pair of parts."""
    share = aligned(share, ndim)
    return torch.stack([share, 1 - share])

"""Elementwise work on large parts, block by block.

A rule takes about ten elementwise steps where the model takes one. On a CPU each step of a large tensor is bound by the
memory, so that a rule would cost ten times the model's op; blocks that stay in the cache bring that down to two or three.
Without a graph only: autograd wants whole tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from xaikit.explainers.cd import shares

BLOCK = 1 << 17
"""Elements of a part in a block: eight temporaries of this size fit a cache of 4 MiB."""

class Cut:
    """How (masks, *shape) is cut: into rows of its leading dimensions, `sizes` rows to a block.

    Attributes:
        dim: the last of the leading dimensions.
        step: rows in a block, within one index of the dimensions before `dim`.
        sizes: rows of each block, in order.
    """

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self.shape = shape
        inner, dim = prod(shape), 0
        whole = device.type != "cpu" or inner <= BLOCK
        while not whole and dim < len(shape) - 1 and inner // shape[dim] >= BLOCK:
            inner //= shape[dim]
            dim += 1
        length = shape[dim]
        self.dim, self.step = dim, length if whole else max(1, BLOCK * length // inner)
        self.outer = prod(shape[:dim])
        self.sizes = [min(self.step, length - start) for start in range(0, length, self.step)] * self.outer

    def rows(self, value: Tensor) -> tuple[Tensor, ...]:
        """The blocks of a tensor of the full shape, as views."""
        return (value,) if len(self.sizes) == 1 else value.view(-1, *value.shape[self.dim + 1 :]).split(self.sizes)

    def operand(self, value: Tensor) -> Sequence[Tensor]:
        """For each block what it meets of a broadcast operand."""
        if len(self.sizes) == 1 or value.numel() == 1:
            return (value,) * len(self.sizes)
        value = value.reshape(*[1] * (len(self.shape) - value.dim()), *value.shape)
        lead = value.shape[: self.dim]
        if any(size > 1 for size in lead):
            full = value.expand(*self.shape[: self.dim + 1], *value.shape[self.dim + 1 :])
            return full.flatten(0, self.dim).split(self.sizes)
        value = value.flatten(0, self.dim)
        return (value,) * len(self.sizes) if len(value) == 1 else value.split(self.step) * self.outer


def share_constant(
    parts: Tensor, constant: Tensor, share: Tensor, scale: Tensor | None, threshold: Tensor, *, in_place: bool = False
) -> Tensor:
    """The formula of `constants` for scale * parts, as a new pair or in place of the old one."""
    parts = parts.contiguous()
    out = parts if in_place else torch.empty(parts.shape, dtype=parts.dtype, device=parts.device)
    cut = Cut(parts.shape[1:], parts.device)
    pairs = zip(cut.rows(parts[0]), cut.rows(parts[1]), cut.rows(out[0]), cut.rows(out[1]), strict=True)
    operands = [cut.operand(value) for value in (constant, threshold, *([] if scale is None else [scale]))]
    wide = shares.aligned(share, parts.dim() - 2).to(parts.dtype)
    numbers = share.tolist() if share.numel() == 1 or (cut.dim > 0 and shares.is_uniform(share)) else None
    each = len(cut.sizes) // len(numbers) if numbers else 0
    undecided = cut.operand(wide) if numbers is None else [number for number in numbers for _ in range(each)]
    for (r, s, new_r, new_s), u, c, low, *g in zip(pairs, undecided, *operands, strict=True):
        if g:
            r, s = r * g[0], s * g[0]  # noqa: PLW2901
        a, b = r.abs(), s.abs()
        n = a + b
        d = torch.maximum(n, low)
        q = c / d
        e = d.sub_(n)
        if isinstance(u, float):
            a.add_(e, alpha=u)
            b.add_(e, alpha=1 - u)
        else:
            a.add_(e * u)
            b.add_(e * (1 - u))
        torch.addcmul(r, a, q, out=new_r)
        torch.addcmul(s, b, q, out=new_s)
    return out


def split_symmetric(parts: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The symmetric split of an elementwise f with f(0) = 0: (f(r + s) + f(r) - f(s)) / 2, and with r and s swapped."""
    parts = parts.contiguous()
    out = torch.empty(parts.shape, dtype=parts.dtype, device=parts.device)
    cut = Cut(parts.shape[1:], parts.device)
    for r, s, new_r, new_s in zip(*(cut.rows(value) for value in (*parts, *out)), strict=True):
        lead = function(r).sub_(function(s))
        half = function(r + s).mul_(0.5)
        torch.add(half, lead, alpha=0.5, out=new_r)
        torch.sub(half, lead, alpha=0.5, out=new_s)
    return out

"""Elementwise work on large parts, block by block.

A rule takes about ten elementwise steps where the model takes one. On a CPU each step of a large tensor is bound by the
memory, so that a rule would cost ten times the model's op; blocks that stay in the cache bring that down to two or three.
Without a graph only: autograd wants whole tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from math import prod

import torch
from torch import Tensor

from xaikit.explainers.cd import shares

BLOCK = 1 << 16
"""Elements of a part in a block: eight temporaries of this size fit a cache of a few MiB."""
Index = tuple[slice, ...]


def blocks(shape: torch.Size, device: torch.device) -> Iterator[Index]:
    """Indices that cut (masks, *shape) into blocks, along as few leading dimensions as it takes."""
    inner = prod(shape)
    if device.type != "cpu" or inner <= BLOCK:
        yield ()
        return
    dim = 0
    while dim < len(shape) - 1 and inner // shape[dim] >= BLOCK:
        inner //= shape[dim]
        dim += 1
    step = max(1, BLOCK * shape[dim] // inner)
    starts = [range(shape[d]) for d in range(dim)]
    for outer in product(*starts):
        lead = tuple(slice(i, i + 1) for i in outer)
        for start in range(0, shape[dim], step):
            yield *lead, slice(start, start + step)


def of_block(value: Tensor, index: Index, ndim: int) -> Tensor:
    """What a broadcast operand has for a block of an `ndim`-dimensional tensor."""
    missing = ndim - value.dim()
    if len(index) <= missing:
        return value
    own = tuple(at if size > 1 else slice(None) for at, size in zip(index[missing:], value.shape, strict=False))
    return value[own]


def share_constant(
    parts: Tensor, constant: Tensor, share: Tensor, scale: Tensor | None, threshold: Tensor
) -> Tensor:
    """The formula of `constants` for scale * parts: a new pair of parts."""
    out = torch.empty(parts.shape, dtype=parts.dtype, device=parts.device)
    ndim = parts.dim() - 1
    wide = shares.aligned(share, ndim - 1).to(parts.dtype)
    for index in blocks(parts.shape[1:], parts.device):
        r, s = parts[0][index], parts[1][index]
        if scale is not None:
            g = of_block(scale, index, ndim)
            r, s = r * g, s * g
        a, b = r.abs(), s.abs()
        n = a + b
        d = torch.maximum(n, of_block(threshold, index, ndim))
        q = of_block(constant, index, ndim) / d
        e = d.sub_(n)
        u = of_block(wide, index, ndim)
        if u.numel() == 1:
            number = u.item()
            a.add_(e, alpha=number)
            b.add_(e, alpha=1 - number)
        else:
            a.add_(e * u)
            b.add_(e * (1 - u))
        torch.addcmul(r, a, q, out=out[0][index])
        torch.addcmul(s, b, q, out=out[1][index])
    return out


def split_symmetric(parts: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The symmetric split of an elementwise f with f(0) = 0: (f(r + s) + f(r) - f(s)) / 2 and the same with r, s swapped."""
    out = torch.empty(parts.shape, dtype=parts.dtype, device=parts.device)
    for index in blocks(parts.shape[1:], parts.device):
        r, s = parts[0][index], parts[1][index]
        lead = function(r) - function(s)
        whole = function(r + s)
        torch.add(whole, lead, out=out[0][index]).mul_(0.5)
        torch.sub(whole, lead, out=out[1][index]).mul_(0.5)
    return out

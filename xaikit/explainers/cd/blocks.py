"""Elementwise work on large parts, block by block.

A rule takes about ten elementwise steps where the model takes one. On a CPU each step of a large tensor is bound by
the memory, so that a rule would cost ten times the model's op; blocks that stay in the cache bring that down to two or
three. Without a graph only: autograd wants whole tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.layout import Rows, channels_behind

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
        whole = device.type != "cpu" or prod(shape) <= BLOCK or len(shape) == 1
        inner, dim = (prod(shape), 0) if whole else (prod(shape[1:]), 1)  # a block lies within one mask
        while not whole and dim < len(shape) - 1 and inner // shape[dim] >= BLOCK:
            inner //= shape[dim]
            dim += 1
        length = shape[dim]
        self.dim, self.step = dim, length if whole else min(length, max(1, BLOCK * length // inner))
        self.outer = prod(shape[:dim])
        self.sizes = [min(self.step, length - start) for start in range(0, length, self.step)] * self.outer

    def rows(self, value: Tensor) -> tuple[Tensor, ...]:
        """The blocks of a tensor of the full shape, as views."""
        return (value,) if len(self.sizes) == 1 else value.view(-1, *value.shape[self.dim + 1 :]).split(self.sizes)

    def views(self, value: Tensor) -> bool:
        """Whether `operand` gives views of the value."""
        lead = value.shape[: max(0, self.dim - (len(self.shape) - value.dim()))]
        return value.is_contiguous() and (len(self.sizes) == 1 or all(size == 1 for size in lead))

    def operand(self, value: Tensor) -> Sequence[Tensor]:
        """For each block what it meets of a broadcast operand."""
        if value.numel() == 1:
            return (value.reshape(()),) * len(self.sizes)
        if len(self.sizes) == 1:
            return (value,)
        value = value.reshape(*[1] * (len(self.shape) - value.dim()), *value.shape)
        lead = value.shape[: self.dim]
        if any(size > 1 for size in lead):
            full = value.expand(*self.shape[: self.dim + 1], *value.shape[self.dim + 1 :])
            return full.flatten(0, self.dim).split(self.sizes)
        value = value.flatten(0, self.dim)
        return (value,) * len(self.sizes) if len(value) == 1 else value.split(self.step) * self.outer


def share_constant(
    parts: Tensor, constant: Tensor, share: Tensor, scale: Tensor | None, threshold: Tensor, out: Tensor | None = None
) -> Tensor:
    """The formula of `constants` for scale * parts, as a new pair or in `out`, which may be the old one."""
    rows = Rows.of(parts, share, constant, scale)
    if rows is not None:
        out = torch.empty_like(parts) if out is None else out  # no view: autograd would not let it be changed in place
        c, g, low = (rows.operand(value) for value in (constant, scale, threshold))
        share_constant(rows.parts(parts), c, rows.share(share), g, low, rows.parts(out))
        return out
    if not parts.is_contiguous():
        parts = out = parts.contiguous()
    out = torch.empty_like(parts) if out is None else out
    cut = Cut(parts.shape[1:], parts.device)
    pairs = zip(cut.rows(parts[0]), cut.rows(parts[1]), cut.rows(out[0]), cut.rows(out[1]), strict=True)
    operands = [cut.operand(value) for value in (constant, threshold, *([] if scale is None else [scale]))]
    for (r, s, new_r, new_s), u, c, low, *g in zip(pairs, undecided(cut, share, parts), *operands, strict=True):
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


def undecided(cut: Cut, share: Tensor, parts: Tensor) -> Sequence[Tensor | float]:
    """The undecided share of each block, a number where it can be."""
    if not shares.is_uniform(share) or (cut.dim == 0 and len(share) > 1):
        return cut.operand(shares.aligned(share, parts.dim() - 2).to(parts.dtype))
    return [number for number in share.tolist() for _ in range(len(cut.sizes) // len(share))]


def split_symmetric(parts: Tensor, function: Callable[[Tensor], Tensor], out: Tensor | None = None) -> Tensor:
    """The symmetric split of an elementwise f with f(0) = 0: (f(r + s) + f(r) - f(s)) / 2, and with r and s swapped."""
    if channels_behind(parts):
        out = torch.empty_like(parts) if out is None else out
        split_symmetric(parts.movedim(3, -1), function, out.movedim(3, -1))
        return out
    if not parts.is_contiguous():
        parts = out = parts.contiguous()
    out = torch.empty_like(parts) if out is None else out
    cut = Cut(parts.shape[1:], parts.device)
    for r, s, new_r, new_s in zip(*(cut.rows(value) for value in (*parts, *out)), strict=True):
        lead = function(r).sub_(function(s))
        whole = function(r + s)
        torch.lerp(lead, whole, 0.5, out=new_r)
        torch.sub(whole, new_r, out=new_s)  # f(r + s) - 0, or f(r) - f(r): a part that is exactly 0 stays so
    return out


def share_constant_gradients(
    grad: Tensor, parts: Tensor, constant: Tensor, share: Tensor, scale: Tensor | None, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of `share_constant` with respect to parts, constant and scale; see `derivatives.ShareConstant`."""
    rows = Rows.of(parts, share, constant, scale)
    if rows is not None:
        c, g, low = (rows.operand(value) for value in (constant, scale, threshold))
        found = share_constant_gradients(rows.parts(grad), rows.parts(parts), c, rows.share(share), g, low)
        d_parts, d_constant, d_scale = found
        back = None if scale is None or d_scale is None else rows.operand_back(d_scale, scale)
        return rows.back(d_parts), rows.operand_back(d_constant, constant), back
    parts, grad = parts.contiguous(), grad.contiguous()
    cut = Cut(parts.shape[1:], parts.device)
    out, d_constant = torch.empty_like(parts), torch.zeros_like(constant)
    d_scale = None if scale is None else torch.zeros_like(scale)
    blocks = zip(*(cut.rows(value) for pair in (parts, grad, out) for value in pair), strict=True)
    own = zip(
        undecided(cut, share, parts),
        cut.operand(constant),
        cut.operand(threshold),
        cut.operand(d_constant),
        strict=True,
    )
    scales: list[tuple[Tensor, ...]] = [()] * len(cut.sizes)
    if scale is not None and d_scale is not None:
        scales = list(zip(cut.operand(scale), cut.operand(d_scale), strict=True))
    for (r0, s0, gr, gs, out_r, out_s), (share_of, c, low, into), g in zip(blocks, own, scales, strict=True):
        r, s = (r0 * g[0], s0 * g[0]) if g else (r0, s0)
        a = r.abs()
        n = s.abs().add_(a)
        d = torch.maximum(n, low)
        relevant = torch.where(n < low, share_of, a.div_(d))
        gap = gr - gs
        into.add_(summed(torch.addcmul(gs, relevant, gap), into))
        to_r = gap.mul_(c).div_(d)
        to_s = relevant.mul_(to_r)
        to_r.sub_(to_s)
        torch.addcmul(gr, r.sign(), to_r, out=out_r)
        torch.addcmul(gs, s.sign(), to_s, value=-1, out=out_s)
        if g:
            g[1].add_(summed(torch.addcmul(out_r * r0, out_s, s0), g[1]))
            out_r *= g[0]  # noqa: PLW2901
            out_s *= g[0]  # noqa: PLW2901
    return out, d_constant, d_scale


def summed(gradient: Tensor, like: Tensor) -> Tensor:
    """The gradient with respect to an operand that was broadcast."""
    return gradient.sum_to_size(like.shape) if like.dim() else gradient.sum()


def accumulates(parts: Tensor, share: Tensor, *operands: Tensor | None) -> bool:
    """Whether the blocks of broadcast operands are views of them, so that sums over blocks can be written there."""
    if Rows.of(parts, share, *operands) is not None:
        return True
    cut = Cut(parts.shape[1:], parts.device)
    return all(value is None or cut.views(value) for value in operands)


def split_symmetric_gradient(grad: Tensor, parts: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Gradient of `split_symmetric`: with g+ = (gr + gs) / 2 and g- = (gr - gs) / 2, dr = f'(r + s) g+ + f'(r) g-."""
    if channels_behind(parts):
        grad, parts = grad.movedim(3, -1), parts.movedim(3, -1)
        return split_symmetric_gradient(grad, parts, function).movedim(-1, 3)
    parts, grad = parts.contiguous(), grad.contiguous()
    out = torch.empty_like(parts)
    cut = Cut(parts.shape[1:], parts.device)

    def pulled(value: Tensor, gradient: Tensor) -> Tensor:
        value = value.detach().requires_grad_()
        with torch.enable_grad():
            (result,) = torch.autograd.grad(function(value), value, gradient)
        return result

    for r, s, gr, gs, out_r, out_s in zip(*(cut.rows(v) for pair in (parts, grad, out) for v in pair), strict=True):
        lead = (gr - gs).mul_(0.5)
        whole = pulled(r + s, (gr + gs).mul_(0.5))
        torch.add(whole, pulled(r, lead), out=out_r)
        torch.sub(whole, pulled(s, lead), out=out_s)
    return out

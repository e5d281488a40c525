"""The two costliest rules as autograd functions: they save only their operands, and go through them block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.blocks import BlockStep, Cut, run_steps, undecided
from xaikit.explainers.cd.layout import ChannelRows, channels_behind


class ShareConstant(torch.autograd.Function):
    """The formula of `constants` with its derivative.

    With n = |r| + |s| above the threshold, and w = (gr - gs) c / n^2 for the gradients gr and gs of the new parts:
    dr = gr + sign(r) |s| w and ds = gs - sign(s) |r| w. Below it |s| gives way to (1 - u) d and |r| to u d.
    """

    @staticmethod
    def forward(ctx: Any, parts: Tensor, share: Tensor, step: BlockStep, *operands: Tensor | None) -> Tensor:
        """The new parts."""
        ctx.save_for_backward(parts, share, *operands)
        return run_steps(parts, share, [step])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """By blocks, or as differentiable ops where a second derivative or that of the share is asked for."""
        parts, share, constant, scale, threshold = ctx.saved_tensors
        by_blocks = not ctx.needs_input_grad[1] and accumulates(parts, share, constant, scale)
        if torch.is_grad_enabled() or not by_blocks:
            return _share_gradients(grad, parts, constant, share, scale, threshold)
        d_parts, d_constant, d_scale = share_constant_gradients(grad, parts, constant, share, scale, threshold)
        return d_parts, None, None, d_constant, d_scale, None


def _share_gradients(
    grad: Tensor, parts: Tensor, constant: Tensor, share: Tensor, scale: Tensor | None, threshold: Tensor
) -> tuple[Tensor | None, ...]:
    scaled = parts if scale is None else parts * scale
    r, s = scaled[0], scaled[1]
    a, b = r.abs(), s.abs()
    n, u = a + b, shares.aligned(share, parts.dim() - 2)
    below, d = n < threshold, torch.maximum(n, threshold)
    gap = grad[0] - grad[1]
    w = gap * constant / (d * d)
    to_r, to_s = torch.where(below, (1 - u) * d, b), torch.where(below, u * d, a)
    inner = torch.stack([grad[0] + r.sign() * to_r * w, grad[1] - s.sign() * to_s * w])
    d_constant = summed(grad[1] + torch.where(below, u.expand_as(d), a / d) * gap, constant)
    d_share = ((d - n) * (constant / d) * gap).sum_to_size(u.shape).reshape(share.shape)
    d_scale = None if scale is None else summed(inner * parts, scale)
    return inner if scale is None else inner * scale, d_share, None, d_constant, d_scale, None


class SplitSymmetric(torch.autograd.Function):
    """The symmetric split of an elementwise f with f(0) = 0, with its derivative."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, step: Any) -> Tensor:
        """The new parts."""
        ctx.save_for_backward(parts)
        ctx.function = step.function
        return run_steps(parts, parts.new_zeros(1), [step])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """By blocks, or as differentiable ops where a second derivative is asked for."""
        (parts,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return split_symmetric_gradient(grad, parts, ctx.function), None
        value = parts if parts.requires_grad else parts.detach().requires_grad_()
        lead, total = ctx.function(value[0]) - ctx.function(value[1]), ctx.function(value[0] + value[1])
        split = 0.5 * torch.stack([total + lead, total - lead])
        return torch.autograd.grad(split, value, grad, create_graph=True)[0], None


def share_constant_gradients(
    grad: Tensor, parts: Tensor, constant: Tensor, share: Tensor, scale: Tensor | None, threshold: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Gradients of `share_constant` with respect to parts, constant and scale; see `derivatives.ShareConstant`."""
    rows = ChannelRows.of(parts, share, constant, scale)
    if rows is not None:
        c, g, low = (rows.operand(value) for value in (constant, scale, threshold))
        gradients = share_constant_gradients(rows.parts(grad), rows.parts(parts), c, rows.share(share), g, low)
        d_parts, d_constant, d_scale = gradients
        back = None if scale is None or d_scale is None else rows.operand_back(d_scale, scale)
        return rows.back(d_parts), rows.operand_back(d_constant, constant), back
    parts, grad = parts.contiguous(), grad.contiguous()
    cut = Cut(parts.shape[1:], parts.device)
    out, d_constant = torch.empty_like(parts), torch.zeros_like(constant)
    d_scale = None if scale is None else torch.zeros_like(scale)
    blocks = zip(*(cut.rows(value) for pair in (parts, grad, out) for value in pair), strict=True)
    operands = zip(
        undecided(cut, share, parts),
        cut.operand(constant),
        cut.operand(threshold),
        cut.operand(d_constant),
        strict=True,
    )
    scales: list[tuple[Tensor, ...]] = [()] * len(cut.sizes)
    if scale is not None and d_scale is not None:
        scales = list(zip(cut.operand(scale), cut.operand(d_scale), strict=True))
    for (r0, s0, gr, gs, out_r, out_s), (share_of, c, low, into), g in zip(blocks, operands, scales, strict=True):
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
    if ChannelRows.of(parts, share, *operands) is not None:
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
        of_total = pulled(r + s, (gr + gs).mul_(0.5))
        torch.add(of_total, pulled(r, lead), out=out_r)
        torch.sub(of_total, pulled(s, lead), out=out_s)
    return out

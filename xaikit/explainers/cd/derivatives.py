"""The two costliest rules as autograd functions: they save only their operands, and go through them block by block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd import blocks, shares


class ShareConstant(torch.autograd.Function):
    """The formula of `constants` with its derivative.

    With n = |r| + |s| above the threshold, and w = (gr - gs) c / n^2 for the gradients gr and gs of the new parts:
    dr = gr + sign(r) |s| w and ds = gs - sign(s) |r| w. Below it |s| gives way to (1 - u) d and |r| to u d.
    """

    @staticmethod
    def forward(
        ctx: Any, parts: Tensor, constant: Tensor, share: Tensor, scale: Tensor | None, threshold: Tensor
    ) -> Tensor:
        """The new parts."""
        ctx.save_for_backward(parts, constant, share, scale, threshold)
        return blocks.share_constant(parts, constant, share, scale, threshold)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """By blocks, or as differentiable ops where a second derivative or that of the share is asked for."""
        operands = ctx.saved_tensors
        parts, constant, share, scale, _ = operands
        by_blocks = not ctx.needs_input_grad[2] and blocks.accumulates(parts, share, constant, scale)
        if torch.is_grad_enabled() or not by_blocks:
            return _share_gradients(grad, *operands)
        d_parts, d_constant, d_scale = blocks.share_constant_gradients(grad, *operands)
        return d_parts, d_constant, None, d_scale, None


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
    d_constant = blocks.summed(grad[1] + torch.where(below, u.expand_as(d), a / d) * gap, constant)
    d_share = ((d - n) * (constant / d) * gap).sum_to_size(u.shape).reshape(share.shape)
    d_scale = None if scale is None else blocks.summed(inner * parts, scale)
    return inner if scale is None else inner * scale, d_constant, d_share, d_scale, None


class SplitSymmetric(torch.autograd.Function):
    """The symmetric split of an elementwise f with f(0) = 0, with its derivative."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """The new parts."""
        ctx.save_for_backward(parts)
        ctx.function = function
        return blocks.split_symmetric(parts, function)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """By blocks, or as differentiable ops where a second derivative is asked for."""
        (parts,) = ctx.saved_tensors
        if not torch.is_grad_enabled():
            return blocks.split_symmetric_gradient(grad, parts, ctx.function), None
        value = parts if parts.requires_grad else parts.detach().requires_grad_()
        lead, whole = ctx.function(value[0]) - ctx.function(value[1]), ctx.function(value[0] + value[1])
        split = 0.5 * torch.stack([whole + lead, whole - lead])
        return torch.autograd.grad(split, value, grad, create_graph=True)[0], None

"""Sharing a constant (a bias, a positional embedding) between the parts, the step that decides what CD says.

With a = |r|, b = |s|, n = a + b and d = max(n, floor * |c|), e = d - n and q = c / d:

    r' = r + (a + u e) q        s' = s + (b + (1 - u) e) q

so that r' + s' = r + s + c, and c is shared as |r| : |s| wherever n reaches the floor. Below it (e > 0) the share goes
linearly to u, the undecided share. A part that is exactly 0 gets exactly 0 when u is 0 or 1 on its side: nothing is
obtained by a subtraction from c.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd import blocks, shares
from xaikit.explainers.cd.decomposed import ATTENTION_MASK, Decomposed

def add_constant(
    x: Decomposed, constant: Tensor, scale: Tensor | None = None, *, in_place: bool = False
) -> Decomposed:
    """Compute scale * x + constant, the constant shared between the parts; both broadcast against x.

    With `in_place` the parts of x, which nobody else may hold, are overwritten where no graph needs them.
    """
    ndim = max(x.dim(), constant.dim())
    shape = torch.broadcast_shapes(x.shape, constant.shape)
    parts = x.aligned_parts(ndim)
    constant = constant.to(parts.dtype)
    if parts.shape[2:] != shape:
        parts, in_place = parts.expand(*parts.shape[:2], *shape), False
    share = x.aligned_share(ndim)
    floor = lowest_share(x)
    tracked = (parts, constant, share, *([] if scale is None else [scale]))
    if torch.is_grad_enabled() and any(value.requires_grad for value in tracked):
        return x.like(_Share.apply(parts, constant, share, scale, floor), share)
    threshold = _threshold(constant, floor)
    return x.like(blocks.share_constant(parts, constant, share, scale, threshold, in_place=in_place), share)


def add_graph_constant(x: Decomposed, constant: Tensor) -> Decomposed:
    """Compute x + constant for a constant met in the graph, which may be an attention mask: both parts get half of its mask."""
    masks = constant <= -ATTENTION_MASK
    if constant.numel() == 0 or not bool(masks.any()):
        return add_constant(x, constant)
    shared = add_constant(x, constant.masked_fill(masks, 0))
    return shared.like(shared.parts + torch.where(masks, 0.5 * constant, 0).to(shared.dtype))


def lowest_share(x: Decomposed) -> float:
    """The floor of the rules, and never so low that rounding would decide."""
    return max(x.context.rules.floor, 4 * torch.finfo(x.dtype).eps)


def _threshold(constant: Tensor, floor: float) -> Tensor:
    return (constant.abs() * floor).clamp_min(torch.finfo(constant.dtype).tiny ** 0.5)


class _Share(torch.autograd.Function):
    """The formula above with its derivative worked out, which saves ten intermediate tensors of the size of the pair."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, constant: Tensor, share: Tensor, scale: Tensor | None, floor: float) -> Tensor:
        ctx.save_for_backward(parts, constant, share, scale)
        ctx.floor = floor
        return blocks.share_constant(parts, constant, share, scale, _threshold(constant, floor))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Where n >= floor |c|: dr = gr + sign(r) b w and ds = gs - sign(s) a w with w = (gr - gs) c / n^2."""
        parts, constant, share, scale = ctx.saved_tensors
        scaled = parts if scale is None else parts * scale
        r, s = scaled[0], scaled[1]
        a, b = r.abs(), s.abs()
        n, threshold, u = a + b, _threshold(constant, ctx.floor), shares.aligned(share, parts.dim() - 2)
        below, d = n < threshold, torch.maximum(n, threshold)
        gap = grad[0] - grad[1]
        w = gap * constant / (d * d)
        to_r, to_s = torch.where(below, (1 - u) * d, b), torch.where(below, u * d, a)
        inner = torch.stack([grad[0] + r.sign() * to_r * w, grad[1] - s.sign() * to_s * w])
        d_constant = d_share = d_scale = None
        if ctx.needs_input_grad[1]:
            relevant = torch.where(below, u.expand_as(d), a / d)
            d_constant = (
                (grad[1] + relevant * gap).sum_to_size(1, *constant.shape)[0]
                if constant.dim()
                else (grad[1] + relevant * gap).sum()
            )
        if ctx.needs_input_grad[2]:
            d_share = ((d - n) * (constant / d) * gap).sum_to_size(*u.shape).reshape(share.shape)
        if ctx.needs_input_grad[3]:
            d_scale = (inner * parts).sum_to_size(scale.shape)
        return inner if scale is None else inner * scale, d_constant, d_share, d_scale, None

"""Sharing a constant (a bias, a positional embedding) between the parts, the step that decides what CD says.

With a = |r|, b = |s|, n = a + b and d = max(n, floor * |c|), e = d - n and q = c / d:

    r' = r + (a + u e) q        s' = s + (b + (1 - u) e) q

so that r' + s' = r + s + c, and c is shared as |r| : |s| wherever n reaches the floor. Below it (e > 0) the share goes
linearly to u, the undecided share. A part that is exactly 0 gets exactly 0 when u is 0 or 1 on its side: nothing is
obtained by a subtraction from c.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xaikit.explainers.cd import blocks
from xaikit.explainers.cd.decomposed import ATTENTION_MASK, Decomposed
from xaikit.explainers.cd.derivatives import ShareConstant


def add_constant(x: Decomposed, constant: Tensor, scale: Tensor | None = None, *, in_place: bool = False) -> Decomposed:
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
        return x.like(ShareConstant.apply(parts, constant, share, scale, _threshold(constant, floor)), share)
    threshold = _threshold(constant, floor)
    return x.like(blocks.share_constant(parts, constant, share, scale, threshold, parts if in_place else None), share)


def add_graph_constant(x: Decomposed, constant: Tensor) -> Decomposed:
    """Compute x + constant for a constant met in the graph; an attention mask in it goes in halves to the parts."""
    masks = constant <= -ATTENTION_MASK
    if constant.numel() == 0 or not bool(masks.any()):
        return add_constant(x, constant)
    shared = add_constant(x, constant.masked_fill(masks, 0))
    return shared.like(shared.parts + torch.where(masks, 0.5 * constant, 0).to(shared.dtype))


def lowest_share(x: Decomposed) -> float:
    """The floor of the rules, and never so low that rounding would decide."""
    return max(x.context.rules.floor, 4 * torch.finfo(x.dtype).eps)


def _threshold(constant: Tensor, floor: float) -> Tensor:
    return (constant.detach().abs() * floor).clamp_min(torch.finfo(constant.dtype).tiny ** 0.5)

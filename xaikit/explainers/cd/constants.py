"""Sharing a constant (a bias, a positional embedding) between the parts: this step determines most of CD's result.

With a = |r|, b = |s|, n = a + b and d = max(n, floor * |c|), e = d - n and q = c / d:

    r' = r + (a + u e) q        s' = s + (b + (1 - u) e) q

so that r' + s' = r + s + c, and c is shared as |r| : |s| wherever n reaches the floor. Below it (e > 0) the share goes
linearly to u, the undecided share. If a part is exactly 0 and u gives it nothing, it gets exactly 0, because no part is
computed by a subtraction from c.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.shares import is_attention_mask, is_uniform
from xaikit.explainers.cd.steps import AddConstant, run


def add_constant(
    x: Decomposed, constant: Tensor, scale: Tensor | None = None, *, may_overwrite: bool = False
) -> Decomposed:
    """Compute scale * x + constant, the constant shared between the parts; both broadcast against x.

    With `may_overwrite` the parts of x, which nobody else may hold, are overwritten where no graph needs them.
    """
    if constant.is_complex() and not x.dtype.is_complex:
        x = x.like(x.parts.to(torch.result_type(x.parts, constant)), x.share)
    ndim = max(x.dim(), constant.dim())
    shape = torch.broadcast_shapes(x.shape, constant.shape)
    aligned = x.aligned(ndim)
    if aligned.shape != shape:
        aligned, may_overwrite = aligned.like(aligned.parts.expand(-1, -1, *shape)), False
    if x.dtype.is_complex:
        scaled: Any = aligned if scale is None else aligned * scale
        return _add_by_components(scaled, constant.to(x.dtype).expand(shape))
    return run(aligned, [constant_step(x, constant, scale)], may_overwrite=may_overwrite)


def _add_by_components(x: Decomposed, constant: Tensor) -> Decomposed:
    """Compute x + constant for complex numbers: the real and the imaginary part are shared by themselves."""
    share = x.share if is_uniform(x.share) else x.share.unsqueeze(-1)
    components = x.like(torch.view_as_real(x.parts.resolve_conj()), share)
    summed = add_constant(components, torch.view_as_real(constant.resolve_conj()))
    return x.like(torch.view_as_complex(summed.parts.contiguous()))


def constant_step(x: Decomposed, constant: Tensor, scale: Tensor | None = None) -> AddConstant:
    """The step that computes scale * x + constant."""
    constant = constant.to(x.dtype)
    return AddConstant(constant, scale, threshold(x, constant.detach()))


def add_graph_constant(x: Decomposed, constant: Tensor) -> Decomposed:
    """Compute x + constant for a constant met in the graph.

    An attention mask in it goes in halves to the parts. What a mask has set to minus infinity stays there.
    """
    if x.parts.is_floating_point() and x.parts.numel() and bool(x.parts.detach().amin().isneginf()):
        closed = x.parts.isneginf().any(0)
        summed = _add_graph_constant(x.like(x.parts.masked_fill(closed, 0)), constant)
        return summed.like(summed.parts.masked_fill(closed, float("-inf")))
    return _add_graph_constant(x, constant)


def _add_graph_constant(x: Decomposed, constant: Tensor) -> Decomposed:
    masks = is_attention_mask(constant)
    if constant.numel() == 0 or not bool(masks.any()):
        return add_constant(x, constant)
    shared = add_constant(x, constant.masked_fill(masks, 0))
    return shared.like(shared.parts + torch.where(masks, 0.5 * constant, 0).to(shared.dtype))


def with_weights(x: Decomposed, weights: Tensor) -> Any:
    """Compute x * weights, where a weight of 0 leaves nothing of what a mask has set to minus infinity."""
    closed = x.parts.isneginf() & (weights == 0)
    return (x.like(x.parts.masked_fill(closed, 0)) if bool(closed.any()) else x) * weights


def threshold(x: Decomposed, constant: Tensor) -> Tensor:
    """The size of the parts below which the undecided share counts: the floor, and never so low that rounding would."""
    floor = max(x.context.rules.floor, 4 * torch.finfo(x.dtype).eps)
    return (constant.abs() * floor).clamp_min(torch.finfo(constant.dtype).tiny ** 0.5)

"""Linear maps of decomposed values: of each part by itself or, with many masks, of one part and of the total.

All masks share the total t. With many of them W t is computed once, W r for each mask, and W s as W t - W r: that takes
half the time, and W s is as exact as W t. Exact zeros stay exact: W r is 0 where r is 0, and W s is set to 0 where the
whole s of a sample is 0. Rules without a floor are not computed like this, since the share of a bias at 0/0 would
depend on rounding errors of s. Nor is a pass that keeps a graph.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.steps import Deferred, FillRest

MANY_MASKS = 8
"""From so many masks on, the total is mapped once for all."""


def goes_by_total(*values: Decomposed) -> bool:
    """Whether the irrelevant part of a linear map of these values may be computed as what the total leaves."""
    many = all(len(value.share) >= MANY_MASKS and value.context.rules.floor > 0 for value in values)
    return many and not torch.is_grad_enabled()  # weights may need a gradient too, and `out=` writes none


def mapped(x: Decomposed, function: Callable[[Tensor], Tensor], share: Tensor | None = None) -> Decomposed:
    """A linear map without a constant, given a function that takes (*any, *shape) and maps each of the leading rows."""
    if not goes_by_total(x):
        return x.like(function(x.parts), share)
    relevant = function(x.relevant)
    strides = relevant.stride()
    order = sorted(range(relevant.dim()), key=lambda dim: -strides[dim])
    parts = torch.empty_permuted(
        (2, *relevant.shape), [0, *(dim + 1 for dim in order)], dtype=relevant.dtype, device=relevant.device
    )
    parts[0] = relevant
    return completed(x, parts, function(x.total), nothing_irrelevant(x), share)


def completed(  # noqa: PLR0913
    like: Decomposed,
    parts: Tensor,
    total: Tensor,
    nothing: Tensor,
    share: Tensor | None = None,
    *,
    now: bool = True,
) -> Decomposed:
    """The value whose relevant part stands in `parts`, the rest being what the total leaves.

    Args:
        like: a value of the same context.
        parts: (2, masks, *shape), the irrelevant part of which is still to be filled in.
        total: (*shape).
        nothing: of which masks no irrelevant part arrives in which rows (masks, rows), or in all of them (masks, 1).
        share: the undecided share of the value, that of `like` by default.
        now: whether to fill it in at once, or together with the steps that follow.
    """
    total = total.detach()  # torch 2.6 refuses a total that requires a gradient
    value = like.like(parts, share)
    value.remember_total(total)
    some = bool(nothing.any())
    if not now and not some:
        return Deferred(value, (FillRest(total),), per_channel=False).pending()
    torch.sub(total, parts[0], out=parts[1])
    if some:
        rows = parts.shape[2:3]  # none of a single number
        per_channel = nothing if rows and nothing.shape[1] in (1, *rows) else nothing.all(1, keepdim=True)
        parts[1].masked_fill_(per_channel.view(len(per_channel), *(-1 for _ in rows), *[1] * (parts.dim() - 3)), 0)
    return value


def nothing_irrelevant(x: Decomposed) -> Tensor:
    """Which masks have no irrelevant part in which rows of the first dimension, (masks, rows)."""
    part = x.irrelevant
    while part.dim() < 3:
        part = part.unsqueeze(1)
    if not part.numel():
        return torch.ones(part.shape[:2], dtype=torch.bool, device=part.device)
    probe = part
    while probe.dim() > 3:
        probe = probe.select(2, 0)
    some = (probe != 0).any(2)  # a look at a few entries is enough for most
    return ~some if bool(some.all()) else ~(part != 0).flatten(2).any(2)

"""Sums and means: linear, each part by itself."""

from __future__ import annotations

from typing import Any

import torch

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.registry import cd_rule
from xaikit.torch_ops import operation_name


@cd_rule("sum", "mean", "nanmean", "nansum")
def reduction(function: Any, input: Decomposed, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Decomposed:
    """The sum or mean over some dimensions, or over all."""
    if dim is None or dim in ((), []):
        dims = list(range(input.dim()))
    else:
        dims = [d % max(input.dim(), 1) for d in ((dim,) if isinstance(dim, int) else dim)]
    if not dims:
        return input
    share = input.share
    if not shares.is_uniform(share):
        share = share.mean([d + 1 for d in dims], keepdim=keepdim)
    reduce = getattr(torch, operation_name(function))
    return input.like(reduce(input.parts, [d + 2 for d in dims], keepdim=keepdim, **kwargs), share)


@cd_rule("cumsum")
def cumulative(function: Any, input: Decomposed, dim: int, **kwargs: Any) -> Decomposed:
    """Running sums."""
    return input.like(torch.cumsum(input.parts, dim + 2 if dim >= 0 else dim, **kwargs))


@cd_rule("cumprod")
def cumulative_product(function: Any, input: Decomposed, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """Running products, factor by factor."""
    factors: Any = (input if dtype is None else input.to(dtype)).unbind(dim)
    products = [factors[0]]
    for factor in factors[1:]:
        products.append(products[-1] * factor)
    return torch.stack(products, dim)

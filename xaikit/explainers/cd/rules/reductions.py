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
    dims = range(input.dim()) if dim is None or dim in ((), []) else (dim,) if isinstance(dim, int) else dim
    dims = [d % max(input.dim(), 1) for d in dims]
    if not dims:
        return input
    share = input.share
    if not shares.is_uniform(share):
        share = share.mean([d + 1 for d in dims], keepdim=keepdim)
    reduce = getattr(torch, operation_name(function))
    return input.like(reduce(input.parts, [d + 2 for d in dims], keepdim=keepdim, **kwargs), share)

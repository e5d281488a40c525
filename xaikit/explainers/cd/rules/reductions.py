"""Sums and means: linear, each part by itself."""

from __future__ import annotations

from typing import Any

import torch

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.registry import cd_rule, named


@cd_rule(*named("sum", "mean", "nanmean", "nansum"))
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
    reduce = getattr(torch, function.__name__)
    return input.like(reduce(input.parts, [d + 2 for d in dims], keepdim=keepdim, **kwargs), share)


@cd_rule(*named("cumsum"))
def cumulative(function: Any, input: Decomposed, dim: int, **kwargs: Any) -> Decomposed:
    """Running sums."""
    return input.like(torch.cumsum(input.parts, dim + 2 if dim >= 0 else dim, **kwargs))


@cd_rule(*named("diff", "trapezoid"))
def differences(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Decomposed:
    """Linear maps along one dimension, by default the last."""
    share = input.share if shares.is_uniform(input.share) else None
    return input.map_parts(lambda part: function(part, *args, **kwargs), share)


@cd_rule(*named("fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "hfft", "ihfft"))
def fourier(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Decomposed:
    """Fourier transforms are linear."""
    return input.map_parts(lambda part: function(part, *args, **kwargs))


@cd_rule(*named("prod"))
def prod(function: Any, input: Decomposed, dim: int | None = None, keepdim: bool = False) -> Any:
    """A product along a dimension, factor by factor."""
    factors = input.reshape(-1).unbind(0) if dim is None else input.unbind(dim)
    result: Any = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result if not keepdim or dim is None else result.unsqueeze(dim)

"""Sums and means: linear, each part by itself."""

from __future__ import annotations

from typing import Any

import torch

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed, missing_rule
from xaikit.explainers.cd.registry import cd_rule
from xaikit.torch_ops import Kind, operation_name


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


PADS = [f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)]


@cd_rule(Kind.LINEAR, "diag", "diag_embed", "diagflat", "rot90", "view_as_real", "view_as_complex", "conj",
         "conj_physical", "resolve_conj", "resolve_neg", "fft_fftshift", "fft_ifftshift", "atleast_1d", "atleast_2d",
         "atleast_3d", *PADS)  # fmt: skip
def linear(function: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Other linear maps of one tensor, such as Fourier transforms and differences: each part by itself."""
    if not isinstance(input, Decomposed) or any(isinstance(v, Decomposed) for v in (*args, *kwargs.values())):
        raise missing_rule(function)
    return input.map_parts(lambda part: function(part, *args, **kwargs))


@cd_rule("scatter_reduce", "index_reduce", "segment_reduce")
def reduced_by_index(function: Any, *args: Any, **kwargs: Any) -> Any:
    """These are linear for sums alone, which have operations of their own (`scatter_add`, `index_add`)."""
    raise missing_rule(function)


@cd_rule("prod")
def prod(function: Any, input: Decomposed, dim: int | None = None, keepdim: bool = False) -> Any:
    """A product along a dimension, factor by factor."""
    factors = input.reshape(-1).unbind(0) if dim is None else input.unbind(dim)
    result: Any = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result if not keepdim or dim is None else result.unsqueeze(dim)


@cd_rule("cumprod")
def cumulative_product(function: Any, input: Decomposed, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    """Running products, factor by factor."""
    factors: Any = (input if dtype is None else input.to(dtype)).unbind(dim)
    products = [factors[0]]
    for factor in factors[1:]:
        products.append(products[-1] * factor)
    return torch.stack(products, dim)

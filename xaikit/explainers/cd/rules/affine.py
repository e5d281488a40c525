"""Affine maps: the weight acts on each part by itself, the bias is shared between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.constants import add_constant
from xaikit.explainers.cd.decomposed import Decomposed, Deferred, missing_rule
from xaikit.explainers.cd.layout import for_convolution
from xaikit.explainers.cd.registry import cd_rule, named
from xaikit.explainers.cd.rules.products import product


@cd_rule(*named("linear"))
def linear(function: Any, input: Any, weight: Any, bias: Tensor | None = None) -> Any:
    """W x + b: W r and W s, then b by |W r| : |W s|."""
    if isinstance(weight, Decomposed):
        result = product(torch.matmul, input, weight.transpose(-2, -1) if weight.dim() > 1 else weight)
    else:
        # as one matrix: torch would multiply matrix by matrix where the rows are not stored in order
        rows = functional.linear(input.parts.reshape(-1, input.parts.shape[-1]), weight)
        result = input.like(rows.view(*input.parts.shape[:-1], -1), shares.without_dim(input.share, -1))
    return with_bias(result, bias, ())


def with_bias(x: Decomposed, bias: Any, trailing: tuple[int, ...]) -> Any:
    """Add a bias with one entry per channel to a fresh result, `trailing` being the 1s behind the channel axis."""
    if bias is None:
        return x
    if isinstance(bias, Decomposed):
        return x + bias.reshape(-1, *trailing)
    return add_to_fresh(x, bias.reshape(-1, *trailing))


def add_to_fresh(x: Decomposed, constant: Tensor) -> Decomposed:
    """Add a constant to a value whose parts nobody else holds."""
    return add_constant(x, constant, in_place=True)


SPATIAL_DIMS = {f"conv{transposed}{n}d": n for n in (1, 2, 3) for transposed in ("", "_transpose")}


@cd_rule(*named(*SPATIAL_DIMS))
def convolution(function: Any, input: Any, weight: Any, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
    """One call for all parts of all masks, without the bias, which is then shared."""
    if isinstance(weight, Decomposed) or not isinstance(input, Decomposed):
        raise missing_rule(function)
    dims = SPATIAL_DIMS[function.__name__] + 1

    def convolved(rows: Tensor) -> Tensor:
        return function(for_convolution(rows, weight) if dims == 3 else rows, weight, None, *args, **kwargs)

    result = folded(input, dims, convolved)
    if bias is None or isinstance(bias, Decomposed):
        return with_bias(result, bias, (1,) * (dims - 1))
    # a max-pool behind the convolution leaves fewer entries to share the bias of
    return Deferred(result, bias.reshape(-1, *(1,) * (dims - 1)), add_to_fresh).pending()


def folded(x: Decomposed, dims: int, function: Any) -> Decomposed:
    """Apply a map that takes (rows, *dims) to all parts, masks and samples in one call."""
    rows = x.parts.reshape(-1, *x.parts.shape[-dims:])
    result = function(rows)
    return x.like(result.reshape(*x.parts.shape[:-dims], *result.shape[1:]))


@cd_rule(*named("bilinear"))
def bilinear(function: Any, input1: Any, input2: Any, weight: Tensor, bias: Tensor | None = None) -> Any:
    """The form x' W y: a product of the two inputs."""
    result = product(lambda left, right: torch.einsum("...i,kij,...j->...k", left, weight, right), input1, input2)
    return with_bias(result, bias, ())

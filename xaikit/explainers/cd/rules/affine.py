"""Affine maps: the weight acts on each part by itself, the bias is shared between them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.constants import constant_step
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.layout import for_convolution
from xaikit.explainers.cd.linear import completed, goes_by_total, mapped, nothing_irrelevant
from xaikit.explainers.cd.registry import cd_rule, missing_rule
from xaikit.explainers.cd.rules.products import product
from xaikit.explainers.cd.steps import Deferred, after
from xaikit.torch_ops import operation_name


@cd_rule("linear")
def linear(function: Any, input: Any, weight: Any, bias: Tensor | None = None) -> Any:
    """W x + b: W r and W s, then b by |W r| : |W s|."""
    if isinstance(weight, Decomposed):
        result = product(torch.matmul, input, weight.transpose(-2, -1) if weight.dim() > 1 else weight)
    else:
        result = weighted(input, weight)
    return with_bias(result, bias, ())


def weighted(x: Decomposed, weight: Tensor) -> Decomposed:
    """The map W x; the rows as one matrix, since torch would multiply matrix by matrix where they are not in order."""
    share = shares.without_dim(x.share, -1)
    if goes_by_total(x) and weight.dim() == 2 and weight.dtype == x.dtype:
        parts = torch.empty(*x.parts.shape[:-1], len(weight), dtype=x.dtype, device=weight.device)
        torch.mm(x.relevant.reshape(-1, x.shape[-1]), weight.T, out=parts[0].view(-1, len(weight)))
        return completed(x, parts, functional.linear(x.total, weight), nothing_irrelevant(x), share, now=False)
    rows = functional.linear(x.parts.reshape(-1, x.shape[-1]), weight)
    return Deferred(x.like(rows.view(*x.parts.shape[:-1], *weight.shape[:-1]), share), per_channel=False).pending()


def with_bias(x: Decomposed, bias: Any, trailing: tuple[int, ...]) -> Any:
    """Add a bias with one entry per channel to a fresh result, `trailing` being the 1s behind the channel axis."""
    if bias is None:
        return x
    if isinstance(bias, Decomposed):
        return x + bias.reshape(-1, *trailing)
    return after(x, constant_step(x, bias.reshape(-1, *trailing)))


SPATIAL_DIMS = {f"conv{transposed}{n}d": n for n in (1, 2, 3) for transposed in ("", "_transpose")}


@cd_rule(*SPATIAL_DIMS)
def convolution(function: Any, input: Any, weight: Any, bias: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
    """One call for all parts of all masks, without the bias, which is then shared."""
    if isinstance(weight, Decomposed) or not isinstance(input, Decomposed):
        raise missing_rule(function)
    dims = SPATIAL_DIMS[operation_name(function)] + 1

    def convolved(rows: Tensor) -> Tensor:
        return function(for_convolution(rows, weight) if dims == 3 else rows, weight, None, *args, **kwargs)

    return with_bias(Deferred(folded(input, dims, convolved)).pending(), bias, (1,) * (dims - 1))


@cd_rule("convolution")
def general_convolution(  # noqa: PLR0913, PLR0917  the signature is torch's
    function: Any, input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> Any:  # fmt: skip
    """The one operator that exported programs have for all convolutions."""
    name = f"conv{'_transpose' if transposed else ''}{weight.dim() - 2}d"
    others = (output_padding, groups, dilation) if transposed else (dilation, groups)
    return convolution(getattr(functional, name), input, weight, bias, stride, padding, *others)


def folded(x: Decomposed, dims: int, function: Any) -> Decomposed:
    """Apply a map that takes (rows, *dims) to all parts, masks and samples in one call."""

    def rows_mapped(value: Tensor) -> Tensor:
        result = function(value.reshape(-1, *value.shape[-dims:]))
        return result.reshape(*value.shape[:-dims], *result.shape[1:])  # type: ignore[no-any-return]

    return mapped(x, rows_mapped)

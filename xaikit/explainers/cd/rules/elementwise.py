"""Sums, choices and fills: element by element, each part by itself; constants are shared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.constants import add_graph_constant
from xaikit.explainers.cd.decomposed import Decomposed, as_constant, constant_like, on_total
from xaikit.explainers.cd.registry import cd_rule
from xaikit.torch_ops import operation_name


def add_scaled(input: Any, other: Any, factor: float) -> Decomposed:
    """Compute x + factor * y; a constant among the two is shared as the parts of the other."""
    if isinstance(input, Decomposed) and isinstance(other, Decomposed):
        ndim = max(input.dim(), other.dim())
        parts = torch.add(input.aligned_parts(ndim), other.aligned_parts(ndim), alpha=factor)
        return input.like(parts, shares.merged(input.aligned_share(ndim), other.aligned_share(ndim), ndim))
    if isinstance(input, Decomposed):
        constant = as_constant(other, input)
        return add_graph_constant(input, constant if factor == 1 else factor * constant)
    scaled = other if factor == 1 else other.like(other.parts * factor)
    return add_scaled(scaled, input, 1)


@cd_rule("add")
def add(function: Any, input: Any, other: Any, *, alpha: float = 1) -> Decomposed:
    """A sum."""
    return add_scaled(input, other, alpha)


@cd_rule("sub", "rsub")
def sub(function: Any, input: Any, other: Any, *, alpha: float = 1) -> Decomposed:
    """A difference; that of `rsub` has its operands in reverse."""
    first, second = (other, input) if operation_name(function) == "rsub" else (input, other)
    return add_scaled(first, second, -alpha)


@cd_rule("neg", "positive")
def signed(function: Any, input: Decomposed) -> Decomposed:
    """-x and +x."""
    return input.like(function(input.parts))


def choose(condition: Tensor, input: Any, other: Any) -> Decomposed:
    """Element by element one of two values, with both its parts."""
    like = input if isinstance(input, Decomposed) else other
    shape = torch.broadcast_shapes(condition.shape, *(v.shape for v in (input, other) if isinstance(v, Tensor)))
    dtype = like.dtype
    both = []
    for value in (input, other):
        constant = not isinstance(value, Decomposed)
        pair = constant_like(as_constant(value, like).to(dtype).expand(shape), like) if constant else value
        both.append((pair.aligned_parts(len(shape)), pair.aligned_share(len(shape))))
    (left, left_share), (right, right_share) = both
    return like.like(torch.where(condition, left, right), shares.merged(left_share, right_share, len(shape)))


@cd_rule("where")
def where(function: Any, condition: Any, input: Any = None, other: Any = None, self: Any = None) -> Any:
    """A choice by a condition, which goes by the total."""
    if isinstance(function, type(torch.Tensor.where)):  # the method: x.where(condition, y)
        condition, input = (
            (input, condition) if isinstance(input, Tensor) and input.dtype == torch.bool else (condition, input)
        )
    if input is None:
        return torch.where(on_total(condition))
    return choose(on_total(condition), input, other)


@cd_rule("maximum", "minimum", "fmax", "fmin")
def larger(function: Any, input: Any, other: Any) -> Decomposed:
    """The larger or the smaller of two, with both its parts."""
    up = operation_name(function) in ("maximum", "fmax")
    left, right = on_total(input), on_total(other)
    return choose(left >= right if up else left <= right, input, other)


@cd_rule("masked_fill")
def masked_fill(function: Any, input: Any, mask: Tensor, value: Any) -> Any:
    """A fill with a constant, which is shared as the undecided share says."""
    return choose(on_total(mask), value, input)


@cd_rule("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def dropout(function: Any, input: Decomposed, p: float = 0.5, training: bool = True, train: bool = True) -> Decomposed:
    """One random scale for both parts, as the model draws it; nothing at all in evaluation mode."""
    if not (training and train) or p == 0:
        return input
    if "alpha" in operation_name(function):
        return dropout(functional.dropout, input, p)
    return input.like(input.parts * function(torch.ones_like(input.parts[0, 0]), p, True))

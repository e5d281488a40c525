"""Values written into a part of a tensor: by assignment, by indices, along a dimension."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import (
    Decomposed,
    ShareLostError,
    as_constant,
    constant_like,
    missing_rule,
    on_total,
    parts_of,
    storage_of,
)
from xaikit.explainers.cd.registry import cd_rule
from xaikit.explainers.cd.rules.structure import getitem, is_basic
from xaikit.torch_ops import operation_name


@cd_rule("copy_", "set_")
def copy(function: Any, input: Any, src: Any, non_blocking: bool = False) -> Decomposed:
    """Take over another value in place."""
    return storage_of(input, src).write(src)


@cd_rule("zero_", "fill_")
def fill(function: Any, input: Any, value: Any = 0) -> Any:
    """Overwrite with a constant."""
    if not isinstance(input, Decomposed):
        return function(input, on_total(value))
    return input.write(constant_like(as_constant(on_total(value), input).expand(input.shape), input))


@cd_rule("__setitem__")
def setitem(function: Any, input: Any, index: Any, value: Any) -> None:
    """Write a part of a tensor; without a graph the parts are changed in place, as the model changes its tensor."""
    index = on_total(index)
    if not isinstance(input, Decomposed) and not isinstance(value, Decomposed):
        function(input, index, value)
        return
    input = storage_of(input, value)
    target = getitem(torch.Tensor.__getitem__, input, index)
    if not isinstance(value, Decomposed):
        value = constant_like(as_constant(value, input).to(input.dtype).expand(target.shape), target)
    parts = input.parts.clone() if torch.is_grad_enabled() else input.parts
    items = index if isinstance(index, tuple) else (index,)
    ndim = target.dim()
    if value.dim() > ndim:
        value = value.reshape(value.shape[value.dim() - ndim :])
    new = value.aligned_parts(ndim).to(parts.dtype)
    if is_basic(items):
        parts[(slice(None), slice(None), *items)] = new
    else:
        for part, mask in itertools.product(range(2), range(new.shape[1])):
            parts[part, mask][items] = new[part, mask]
    if parts is not input.parts:
        input.write(input.like(parts))
    else:
        input.changed()


@cd_rule("scatter", "scatter_add", "index_add", "index_copy", "index_put", "select_scatter", "slice_scatter",
                "diagonal_scatter", "masked_scatter")  # fmt: skip
def insert(function: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Values put into, or added to, places of a tensor that the indices name: linear in both together."""
    if kwargs.get("reduce") is not None or (operation_name(function) == "scatter" and len(args) > 3):
        raise missing_rule(function)
    arguments = [on_total(value) if _is_index(value) else value for value in args]
    options = {name: on_total(value) if _is_index(value) else value for name, value in kwargs.items()}
    pair = next(value for value in (input, *arguments, *options.values()) if isinstance(value, Decomposed))
    if not shares.is_uniform(pair.share):
        if not isinstance(input, Decomposed):
            raise ShareLostError(pair.shape, input.shape)
        pair = input
    like: Decomposed = pair

    def rows(value: Any) -> Any:
        """What each part of each mask has in place of an operand."""
        if isinstance(value, Decomposed) or (isinstance(value, Tensor) and value.is_floating_point()):
            return parts_of(value, like).flatten(0, 1).unbind()
        return None

    def of_part(value: Any, parts: Any, i: int) -> Any:
        return value if parts is None else parts[i]

    operands = [(value, rows(value)) for value in (input, *arguments)]
    keywords = {name: (value, rows(value)) for name, value in options.items()}
    written = [
        function(*(of_part(*value, i) for value in operands), **{k: of_part(*v, i) for k, v in keywords.items()})
        for i in range(2 * like.parts.shape[1])
    ]
    return like.like(torch.stack(written).unflatten(0, like.parts.shape[:2]))


def _is_index(value: Any) -> bool:
    return isinstance(value, Decomposed) and not value.is_floating_point()

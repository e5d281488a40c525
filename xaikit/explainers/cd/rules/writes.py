"""Values written into a part of a tensor: by assignment, by indices, along a dimension."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd.decomposed import Decomposed, as_constant, constant_like, on_total, storage_of
from xaikit.explainers.cd.registry import cd_rule, missing_rule
from xaikit.explainers.cd.rules import by_kind
from xaikit.explainers.cd.rules.elementwise import masked_fill
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


@cd_rule("fill_diagonal_")
def fill_diagonal(function: Any, input: Decomposed, fill_value: Any, wrap: bool = False) -> Decomposed:
    """Overwrite the diagonal with a constant."""
    places = torch.zeros(input.shape, dtype=torch.bool, device=input.device)
    return input.write(masked_fill(torch.masked_fill, input, function(places, True, wrap), fill_value))


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


@cd_rule("scatter")
def scatter(function: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Values put at places that the indices name; what is multiplied there has no rule."""
    if kwargs.get("reduce") is not None or len(args) > 3:
        raise missing_rule(function)
    return by_kind.structure(function, input, *args, **kwargs)


@cd_rule("scatter_reduce", "index_reduce")
def reduced_by_index(  # noqa: PLR0913, PLR0917  the signature is torch's
    function: Any, input: Any, dim: int, index: Tensor, src: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """Sums and means are linear. A maximum takes each part at the places of the total's own, in equal shares."""
    if reduce in ("sum", "mean"):
        return by_kind.jointly_linear(function, input, dim, index, src, reduce, include_self=include_self)
    if reduce not in ("amax", "amin") or operation_name(function) == "index_reduce":
        raise missing_rule(function)
    chosen = function(on_total(input), dim, index, on_total(src), reduce, include_self=include_self)
    untouched = torch.ones_like(chosen).scatter(dim, index, 0).bool()
    keeps = ((chosen == on_total(input)) & (untouched | include_self)).to(chosen.dtype)
    wins = (chosen.gather(dim, index) == on_total(src)).to(chosen.dtype)
    count = keeps.scatter_add(dim, index, wins)
    return (input * keeps).scatter_add(dim, index, src * wins) / count

"""Copies, casts to other dtypes and devices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd.decomposed import Decomposed, stand_ins
from xaikit.explainers.cd.registry import cd_rule
from xaikit.torch_ops import operation_name


@cd_rule("to", "float", "double", "half", "bfloat16", "type", "type_as", "cpu", "cuda")
def cast(function: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Another dtype or device; what is no longer a floating-point tensor is no longer decomposed."""
    args, kwargs = stand_ins(args), stand_ins(kwargs)  # which only lend dtype and device
    if not isinstance(input, Decomposed):
        return function(input, *args, **kwargs)
    # The parts lie in memory as suits them.
    layout = kwargs.pop("memory_format", torch.preserve_format)
    if not args and not kwargs and operation_name(function) == "to":
        return input if _lies_as(input, layout) else input.like(input.parts.clone())
    parts = function(input.parts, *args, **kwargs)
    if not isinstance(parts, Tensor):
        return f"{input.parts.type()}"
    if not parts.is_floating_point() and not parts.is_complex():
        return function(input.total, *args, **kwargs)
    if parts is input.parts:
        return input
    return input.like(parts, input.share.to(parts.device, parts.dtype if parts.is_floating_point() else None))


def _lies_as(input: Decomposed, layout: torch.memory_format) -> bool:
    """Whether the tensor that the model sees has this layout, so that torch returns the tensor itself."""
    return layout is torch.preserve_format or input.is_contiguous(memory_format=layout)


@cd_rule("contiguous")
def contiguous(
    function: Any, input: Decomposed, memory_format: torch.memory_format = torch.contiguous_format
) -> Decomposed:
    """The same entries laid out in order: a copy, where they were not."""
    return input if _lies_as(input, memory_format) else input.like(input.parts.clone())


@cd_rule("clone", "detach", "__deepcopy__")
def same_entries(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Decomposed:
    """The same entries, cut off from the graph, or copied."""
    parts = input.parts.detach() if operation_name(function) == "detach" else input.parts.clone()
    return input.like(parts).is_view_of(input)

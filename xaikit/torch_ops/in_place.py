"""Operations that write into a tensor which exists: what they compute, and which tensors share the memory."""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from xaikit.core import torch_private
from xaikit.torch_ops.names import NAMESPACES, is_in_place_name, plain_name


@lru_cache(maxsize=2048)
def out_of_place(function: Any) -> Any | None:
    """The function that computes what an in-place function writes into its first operand: `Tensor.relu_` -> `relu`.

    None for a function that works in no place, and for one that only exists in place (`copy_`, `zero_`).

    Args:
        function: what a `__torch_function__` receives.
    """
    name = plain_name(function)
    if not is_in_place_name(name):
        return None
    if (schema := torch_private.schema_of(function)) is not None:  # torch.ops.aten.relu_.default
        packet = getattr(torch.ops.aten, name[:-1], None)
        return getattr(packet, schema.overload_name or "default", None)
    plain = f"__{name[3:]}" if name.startswith("__") else name[:-1]
    return next((getattr(space, plain) for space in (torch.Tensor, *NAMESPACES) if hasattr(space, plain)), None)


@lru_cache(maxsize=2048)
def _inplace_position(function: Any) -> int | None:
    """Where a function of torch.nn.functional takes `inplace`, if it does."""
    if not inspect.isfunction(function) or not inspect.isfunction(inspect.unwrap(function)):
        return None
    parameters = list(inspect.signature(function).parameters)
    return parameters.index("inplace") if "inplace" in parameters else None


def computed(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any], bool]:
    """A call as one that only computes, and whether its result is to be written into the first operand.

    `F.relu(x, inplace=True)` and `x.relu_()` are `relu(x)`, to be written into x.

    Args:
        function: what is called.
        args: its arguments by position.
        kwargs: its arguments by name.

    Returns:
        The function that only computes, its arguments by position and by name, and whether the result is to be written
        into the first operand.
    """
    plain = out_of_place(function)
    if plain is not None:
        return plain, args, kwargs, True
    place = _inplace_position(function)
    if place is None:
        return function, args, kwargs, False
    if len(args) > place:
        return function, (*args[:place], False, *args[place + 1 :]), kwargs, bool(args[place])
    return function, args, {k: v for k, v in kwargs.items() if k != "inplace"}, bool(kwargs.get("inplace", False))


def writes(function: Any) -> bool:
    """Whether a function changes its first operand: `add_`, `copy_`, `__setitem__`.

    Args:
        function: what a `__torch_function__` receives.
    """
    name = plain_name(function)
    return name == "__setitem__" or (is_in_place_name(name) and name != "requires_grad_")


def base_of(x: Tensor) -> Tensor:
    """The tensor of which x is a view, x itself if it is none: what is written into the one is seen in the other.

    Args:
        x: any tensor.
    """
    base = torch_private.view_base(x)
    return x if base is None else base

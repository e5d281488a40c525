"""Private copies of what a model is given, since it may write into it: masks, lists, caches."""

from __future__ import annotations

import contextlib
from collections.abc import MutableMapping
from copy import copy
from typing import Any

from torch import Tensor, nn

from xaikit.core.object_states import access_to, attributes_of, empty_object, holds_attributes, set_attributes
from xaikit.core.replica import CONTAINERS, LARGE_CONTAINER, PLAIN_TYPES

MAX_DEPTH = 5


def private_copy(value: Any) -> Any:
    """A value in which a model may write without reaching the user's: tensors, containers, and objects of Python.

    Modules, parameters and functions are shared, and so are containers of more than 1000 items, which are data.

    Args:
        value: an argument of a model, or all of them.
    """
    return value if value is None else _copied(value, {}, MAX_DEPTH)


def _copied(value: Any, copies: dict[int, Any], depth: int) -> Any:
    kind = type(value)
    if kind in PLAIN_TYPES or depth < 0 or isinstance(value, (nn.Module, nn.Parameter)):
        return value
    if id(value) in copies:
        return copies[id(value)]
    new: Any = value
    if isinstance(value, Tensor):
        new = value.clone()
    elif isinstance(value, tuple):
        items = [_copied(item, copies, depth - 1) for item in value]
        if any(a is not b for a, b in zip(items, value, strict=True)):
            new = kind(*items) if hasattr(value, "_fields") else kind(items)
    elif isinstance(value, (*CONTAINERS, MutableMapping)):
        new = _container(value, copies, depth)
    elif access := access_to(value):
        new = access.copy(value)
    elif holds_attributes(value):
        new = copies[id(value)] = empty_object(kind)
        set_attributes(new, {name: _copied(item, copies, depth - 1) for name, item in attributes_of(value).items()})
    copies[id(value)] = new
    return new


def _container(value: Any, copies: dict[int, Any], depth: int) -> Any:
    if len(value) > LARGE_CONTAINER:
        return value
    new = copies[id(value)] = copy(value)
    with contextlib.suppress(TypeError):  # one that takes no items shares them
        if not isinstance(value, set):
            for key, item in list(value.items() if isinstance(value, MutableMapping) else enumerate(value)):
                new[key] = _copied(item, copies, depth - 1)
    return new

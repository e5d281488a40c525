"""The state of what a model holds on to (caches, counters, generators, arrays): to read, to compare, to put back."""

from __future__ import annotations

import array
import pickle
import random
import types
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

MAX_ELEMENTS = 2**20  # of a tensor or an array that an object holds; larger ones are data, not what a pass writes

SHARED_BY_THREADS = {
    "asyncio",
    "concurrent",
    "logging",
    "multiprocessing",
    "queue",
    "threading",
}  # Python modules whose objects are shared by threads, so they are not put back


class Access(NamedTuple):
    """How the state of a class that is not written in Python is read and written.

    Attributes:
        read: the state of an object, which later writes do not change.
        write: gives an object that state.
        copy: another object with the same state.
    """

    read: Callable[[Any], Any]
    write: Callable[[Any, Any], None]
    copy: Callable[[Any], Any] = deepcopy


def _set_items(x: Any, items: Any) -> None:
    x[:] = items


def _generator(generator: torch.Generator) -> torch.Generator:
    copy = torch.Generator(generator.device)
    copy.set_state(generator.get_state())
    return copy


ACCESS: dict[type, Access] = {
    torch.Generator: Access(lambda g: g.get_state(), lambda g, state: g.set_state(state) and None, _generator),
    np.random.Generator: Access(
        lambda g: deepcopy(g.bit_generator.state), lambda g, state: setattr(g.bit_generator, "state", state)
    ),
    np.random.RandomState: Access(lambda g: g.get_state(), lambda g, state: g.set_state(state)),
    random.Random: Access(lambda g: g.getstate(), lambda g, state: g.setstate(state)),
    np.ndarray: Access(lambda x: x.copy(), np.copyto),
    bytearray: Access(bytes, _set_items),
    array.array: Access(lambda x: x[:], _set_items),
}


def access_to(value: Any) -> Access | None:
    """How the state of a value is read and written; None for one of other classes, or an array that is data.

    Args:
        value: of any type.
    """
    if not isinstance(value, np.ndarray):
        return ACCESS.get(type(value))
    is_state = value.size <= MAX_ELEMENTS and not value.dtype.hasobject and value.flags.writeable
    return ACCESS[np.ndarray] if is_state else None


def same_state(first: Any, second: Any) -> bool:
    """Whether two states that an `Access` has read are the same.

    Args:
        first: a state.
        second: another.
    """
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return first.shape == second.shape and first.tobytes() == second.tobytes()
    return pickle.dumps(first) == pickle.dumps(second)


def holds_attributes(value: Any) -> bool:
    """Whether a value is an object with attributes, of a class that is written in Python.

    Args:
        value: of any type.
    """
    kind: Any = type(value)
    if kind is types.SimpleNamespace:
        return True
    if kind.__module__.partition(".")[0] in SHARED_BY_THREADS:
        return False
    plain = (types.FunctionType, types.MethodType, partial, nn.Module, Tensor, type)
    if isinstance(value, plain) or kind.__new__ is not object.__new__:
        return False
    return hasattr(value, "__dict__") or bool(slot_names(kind))


def attributes_of(value: Any) -> dict[str, Any]:
    """The attributes of an object, in its dict and in `__slots__`.

    Args:
        value: for which `holds_attributes`.
    """
    return {**getattr(value, "__dict__", {}), **slots_of(value)}


def set_attributes(value: Any, attributes: dict[str, Any]) -> None:
    """Give an object those attributes and no others.

    Args:
        value: for which `holds_attributes`.
        attributes: as `attributes_of` gives them.
    """
    slots = slot_names(type(value))
    for name in slots:
        if name in attributes:
            object.__setattr__(value, name, attributes[name])
        elif hasattr(value, name):
            object.__delattr__(value, name)
    if hasattr(value, "__dict__"):
        vars(value).clear()
        vars(value).update({name: item for name, item in attributes.items() if name not in slots})


def body_of(kind: type) -> dict[str, Any]:
    """What a class holds in its body and those of its bases, such as counters and caches; no methods, no properties.

    Args:
        kind: the class of a module.
    """
    held: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("torch."):
            held.update(vars(base))
    return {name: v for name, v in held.items() if not name.startswith("__") and not hasattr(type(v), "__get__")}


def empty_object(kind: Any) -> Any:
    """An object of a class, without attributes.

    Args:
        kind: a class that is written in Python.
    """
    return kind() if kind is types.SimpleNamespace else object.__new__(kind)


def slots_of(value: Any) -> dict[str, Any]:
    """The attributes that a class keeps in `__slots__`, outside the dict of an object.

    Args:
        value: an object, such as a module.
    """
    names = slot_names(type(value))
    return {name: getattr(value, name) for name in names if hasattr(value, name)} if names else {}


def slot_names(kind: type) -> tuple[str, ...]:
    """The names in the `__slots__` of a class and its bases.

    Args:
        kind: a class.
    """
    slots = [c.__dict__["__slots__"] for c in kind.__mro__ if "__slots__" in c.__dict__]
    listed = [name for names in slots for name in ((names,) if isinstance(names, str) else names)]
    return tuple(name for name in listed if name not in ("__dict__", "__weakref__"))

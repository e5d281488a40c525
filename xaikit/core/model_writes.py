"""What a model writes into itself while it runs: every pass of an explanation starts from the state as found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaikit.core.errors import InvalidInputError
from xaikit.core.object_states import (
    MAX_ELEMENTS,
    access_to,
    attributes_of,
    holds_attributes,
    same_state,
    set_attributes,
    slots_of,
)
from xaikit.core.replica import CONTAINERS, LARGE_CONTAINER, MODULE_STATE, PLAIN_TYPES, Replica
from xaikit.core.sparse_layouts import same_numbers
from xaikit.core.torch_private import buffers_of, children_of, parameters_of

MAX_DEPTH = 4

DATA: Any = torch.Tensor.data  # the descriptor


class WrittenObjects:
    """What values held before a pass: containers, tensors, objects (caches, counters), generators, and all within them.

    Args:
        values: what the modules hold on to.
    """

    def __init__(self, values: Iterable[Any]) -> None:
        self._before: list[tuple[Any, Any, frozenset[type]]] = []
        self._visited: set[int] = set()
        for value in values:
            self._keep(value, MAX_DEPTH, frozenset())

    def _keep(self, value: Any, depth: int, path: frozenset[type]) -> None:
        """Remember a value; `path` has the classes of the objects that hold it, which are changed if it is."""
        kind = type(value)
        if kind in PLAIN_TYPES or depth < 0 or isinstance(value, nn.Module) or id(value) in self._visited:
            return
        self._visited.add(id(value))
        items: Iterable[Any] = ()
        if isinstance(value, Tensor):
            if value.numel() <= MAX_ELEMENTS and not isinstance(value, nn.Parameter):
                self._before.append((value, value.detach().clone(), path))
        elif isinstance(value, tuple):
            items = value
        elif isinstance(value, CONTAINERS):
            if len(value) <= LARGE_CONTAINER:
                self._before.append((value, value.copy(), path))
                items = list(value.values() if isinstance(value, Mapping) else value)
        elif access := access_to(value):
            self._before.append((value, access.read(value), path | {kind}))
        elif holds_attributes(value):
            path |= {kind}
            self._before.append((value, attributes_of(value), path))
            items = list(attributes_of(value).values())
        for item in items:
            self._keep(item, depth - 1, path)

    def put_back(self) -> frozenset[type]:
        """Give all of them what they held before; returns the classes of the objects that had changed."""
        changed: set[type] = set()
        for value, before, path in self._before:
            if _put_back(value, before):
                changed |= path
        return frozenset(changed)


def _put_back(value: Any, before: Any) -> bool:
    """Give a value what it held before; whether that had changed."""
    if isinstance(value, Tensor):
        changed = not same_numbers(value, before)
        if changed:
            with torch.no_grad():
                value.copy_(before)
    elif isinstance(value, CONTAINERS):
        changed = not same_items(value, before)
        if changed:  # another thread that reads it must not find it empty for nothing
            value.clear()
            (value.extend if hasattr(value, "extend") else value.update)(before)
    elif access := access_to(value):
        changed = not same_state(access.read(value), before)
        if changed:
            access.write(value, before)
    else:
        now = attributes_of(value)
        changed = now.keys() != before.keys() or any(now[name] is not item for name, item in before.items())
        if changed:
            set_attributes(value, before)
    return changed


class WrittenWeights(TorchFunctionMode):
    """While active, keeps the weights that a pass may write into: by their `data`, or in place."""

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[int, tuple[nn.Parameter, Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        outputs = (kwargs or {}).get("out")
        for target in (*args[:1], *(outputs if isinstance(outputs, tuple) else (outputs,))):
            if isinstance(target, nn.Parameter) and id(target) not in self._before and _may_write(func, outputs):
                self._before[id(target)] = target, target.detach(), target.detach().clone()
        return func(*args, **(kwargs or {}))

    def put_back(self, replica: Replica | None, names: Mapping[nn.Module, str]) -> frozenset[tuple[str, str]]:
        """Give the weights the values that they had.

        Args:
            replica: the private copy that ran, which may share the weights with the user's model.
            names: of the modules that ran.

        Returns:
            The changed weights, each as module's name and own.
        """
        changed = set()
        for weight, memory, value in self._before.values():
            if weight.data_ptr() != memory.data_ptr() or not same_numbers(weight, value):
                changed.add(id(weight))
                with torch.no_grad():
                    weight.data = memory
                    memory.copy_(value)
        modules = names if replica is None else replica.copies.values()
        return frozenset((names[m], k) for m in modules for k, p in parameters_of(m).items() if id(p) in changed)


def _may_write(func: Any, outputs: Any) -> bool:
    name = getattr(func, "__name__", "")
    data = getattr(func, "__self__", None) is DATA  # its getter or its setter
    in_place = name.endswith("_") and not name.startswith("_") or name.startswith("__i") or name == "__setitem__"
    return data or in_place or outputs is not None


def same_items(first: Any, second: Any) -> bool:
    """Whether two lists, dicts or sets of one kind hold the same objects.

    Args:
        first: a container.
        second: another.
    """
    if len(first) != len(second):
        return False
    if isinstance(first, Mapping):
        return all(key in second and second[key] is value for key, value in first.items())
    if isinstance(first, set):
        return bool(first == second)
    return all(a is b for a, b in zip(first, second, strict=True))


def written_names(replica: Replica, names: Mapping[nn.Module, str]) -> frozenset[tuple[str, str]]:
    """The buffers and attributes that differ on a copy which has run from the model's own.

    Args:
        replica: a private copy that has run, of a model that has not run since the copy was made.
        names: of the copy's modules.
    """
    return frozenset(
        (names[copy], name)
        for module, copy in replica.copies.items()
        for name in _names(module) | _names(copy)
        if _differs(_value(module, name), _value(copy, name), replica, MAX_DEPTH)
    )


def refuse_new_weights(replica: Replica, names: Mapping[nn.Module, str]) -> None:
    """Refuse a model that made layers or weights in its first pass: the user's next pass would draw others.

    Args:
        replica: a private copy that has run.
        names: of the copy's modules.

    Raises:
        InvalidInputError: naming the new layer or weight.
    """
    for module, copy in replica.copies.items():
        layers = (k for k, m in children_of(copy).items() if m is not None and any(True for _ in m.parameters()))
        weights = (k for k, p in parameters_of(copy).items() if p is not None)
        new = [k for k in layers if children_of(module).get(k) is None]
        new += [k for k in weights if parameters_of(module).get(k) is None]
        if new:
            name = f"{names[copy]}.{new[0]}" if names[copy] else new[0]
            raise InvalidInputError(
                f"the model makes {name!r} in its first pass; run it on a batch once, model(inputs), so that it has "
                "all its weights"
            )


def _names(module: nn.Module) -> set[str]:
    return (vars(module).keys() - MODULE_STATE) | buffers_of(module).keys() | slots_of(module).keys()


def _value(module: nn.Module, name: str) -> Any:
    """A buffer or attribute, of the class where the module has none; what is missing is the class of an error."""
    for attributes in (buffers_of(module), vars(module), slots_of(module)):
        if name in attributes:
            return attributes[name]
    return getattr(type(module), name, KeyError)


def _differs(original: Any, copy: Any, replica: Replica, depth: int) -> bool:  # noqa: PLR0911
    """Whether the copy's value is another than that which a new copy would have."""
    if original is copy:
        return False
    if type(original) is not type(copy) or depth < 0:
        return True
    if type(original) in PLAIN_TYPES:
        return bool(original != copy)
    if isinstance(original, nn.Module):
        return replica.copies.get(original) is not copy
    if isinstance(original, Tensor):
        return not same_numbers(original, copy)
    if isinstance(original, Mapping):
        return original.keys() != copy.keys() or any(
            _differs(v, copy[k], replica, depth - 1) for k, v in list(original.items())
        )
    if isinstance(original, set):
        return bool(original != copy)
    if isinstance(original, (list, tuple)) or hasattr(original, "appendleft"):
        return len(original) != len(copy) or any(
            _differs(a, b, replica, depth - 1) for a, b in zip(original, copy, strict=True)
        )
    if type(original) in replica.private_classes:
        if access := access_to(original):
            return not same_state(access.read(original), access.read(copy))
        return _differs(attributes_of(original), attributes_of(copy), replica, depth - 1)
    return False  # a method, a partial: made anew for the copy

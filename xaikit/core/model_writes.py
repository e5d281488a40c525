"""What a model writes into itself while it runs: every pass of an explanation starts from the state as found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaikit.core.errors import InvalidInputError
from xaikit.core.replica import CONTAINERS, LARGE_CONTAINER, MODULE_STATE, PLAIN_TYPES, Replica, holds_state, slots_of
from xaikit.core.sparse_layouts import same_numbers
from xaikit.core.torch_private import buffers_of, children_of, parameters_of

MAX_DEPTH = 4
MAX_ELEMENTS = 2**20  # of a tensor that an object holds; larger ones are data, not what a pass writes

DATA: Any = torch.Tensor.data  # the descriptor


class WrittenObjects:
    """The objects on a model's attributes (caches, counters), as they were before a pass.

    Args:
        objects: what the modules hold on to.
    """

    def __init__(self, objects: Iterable[Any]) -> None:
        self._before = [(item, _kept(vars(item), MAX_DEPTH)) for item in objects if holds_state(item)]

    def put_back(self) -> frozenset[type]:
        """Give the objects what they held before; returns the classes of those that had changed."""
        changed = set()
        for item, (state, contents) in self._before:
            now, contents_changed = vars(item), _restored(contents)
            if contents_changed or now.keys() != state.keys() or any(now[k] is not v for k, v in state.items()):
                changed.add(type(item))
                now.clear()
                now.update(state)
        return frozenset(changed)


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


def _kept(state: dict[str, Any], depth: int) -> tuple[dict[str, Any], list[tuple[Any, Any]]]:
    """A dict as it is, and the containers and tensors in it beside copies of them."""
    contents: list[tuple[Any, Any]] = []

    def keep(value: Any, level: int) -> None:
        if isinstance(value, Tensor):
            if value.numel() <= MAX_ELEMENTS and not isinstance(value, nn.Parameter):
                contents.append((value, value.detach().clone()))
        elif isinstance(value, CONTAINERS) and level > 0 and len(value) <= LARGE_CONTAINER:
            contents.append((value, value.copy()))
            for item in value.values() if isinstance(value, Mapping) else value:
                if type(item) not in PLAIN_TYPES:
                    keep(item, level - 1)

    for value in state.values():
        keep(value, depth)
    return dict(state), contents


def _restored(contents: list[tuple[Any, Any]]) -> bool:
    """Put containers and tensors back; whether any had changed."""
    changed = False
    for value, copy in contents:
        if isinstance(value, Tensor):
            if not same_numbers(value, copy):
                with torch.no_grad():
                    value.copy_(copy)
                changed = True
        elif not same_items(value, copy):
            value.clear()
            (value.extend if hasattr(value, "extend") else value.update)(copy)
            changed = True
    return changed


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
    """A buffer or attribute; what is missing is the class of what is missing."""
    for attributes in (buffers_of(module), vars(module), slots_of(module)):
        if name in attributes:
            return attributes[name]
    return KeyError


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
        return _differs(vars(original), vars(copy), replica, depth - 1)
    return False  # a method, a partial: made anew for the copy

"""A private copy of a model's modules, which shares the weights with them unless it is asked for others.

An explanation runs the copy. So it may switch to evaluation mode, freeze parameters and register hooks, and the model
may write into its buffers and attributes, while the user's own model stays as it is, also for other threads.
"""

from __future__ import annotations

import collections
import contextlib
import dis
import functools
import types
import weakref
from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.earlier_statistics import earlier_statistics
from xaikit.core.errors import InvalidInputError, XaikitError
from xaikit.core.object_states import (
    access_to,
    attributes_of,
    body_of,
    empty_object,
    holds_attributes,
    set_attributes,
    slot_names,
    slots_of,
)
from xaikit.core.registered_hooks import HOOKS, RegisteredHooks
from xaikit.core.torch_private import DisableTorchFunction, buffers_of, children_of, parameters_of

ORIGINAL = "_xaikit_original"  # the attribute of a copy that holds the module it was copied from
MODULE_STATE = frozenset(vars(nn.Module())) | {"_compiled_call_impl", ORIGINAL}
PLAIN_TYPES = frozenset(
    {bool, int, float, complex, str, bytes, type(None), type, torch.dtype, torch.device, torch.Size, torch.layout}
    | {types.BuiltinFunctionType, types.ModuleType, torch.memory_format, range, slice}
)
CONTAINERS = (list, dict, set, collections.deque)
DICTS = (collections.OrderedDict, collections.defaultdict, collections.Counter)
LARGE_CONTAINER = 1000  # beyond so many items it is data, such as a vocabulary, and is not searched for modules
SEARCH_DEPTH = 3


class NotReplicableError(XaikitError, RuntimeError):
    """A model whose code keeps references to its own modules that a copy cannot redirect."""


def original_of(module: nn.Module) -> nn.Module:
    """The module that a private copy stands for; the module itself where it is no copy."""
    original: nn.Module = vars(module).get(ORIGINAL, module)
    return original


def first_original_of(module: nn.Module) -> nn.Module:
    """The user's module that a copy, or a copy of a copy, stands for."""
    while (original := original_of(module)) is not module:
        module = original
    return module


class Replica:
    """Copies of all modules of a model.

    Args:
        modules: all modules of the model, the model first.
        training: the mode of the copies; None keeps each module's own.
        freeze: whether the copies' parameters are detached, so that a backward pass skips their gradients.
        share_state: whether buffers and attributes are the user's own, not copies. `write_back` then hands on what was
            assigned anew.
        share_weights: whether the copies have the model's own parameters; if not, these are copied, too.
        private_classes: of the objects on attributes, such as caches, that the model writes into: they are copied, too.

    Raises:
        NotReplicableError: when a function or an object holds on to a module of the model.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module],
        *,
        training: bool | None,
        freeze: bool,
        share_state: bool = False,
        share_weights: bool = True,
        private_classes: frozenset[type] = frozenset(),
    ) -> None:
        originals = list(modules)
        self._share_weights = share_weights
        self._share_state = share_state
        self._freeze = freeze
        self._earlier = earlier_statistics()
        self.private_classes = private_classes
        self._weights: dict[int, Tensor] = {}
        self._tensors: dict[int, Tensor] = {}
        self._containers: dict[int, Any] = {}
        self._slots: dict[type, tuple[str, ...]] = {}
        self._bodies: dict[type, dict[str, Any]] = {}
        self.holders: list[Any] = []  # functions and objects that may refer to a module
        self._copied_hooks: set[int] = set()  # their keys, which are unique
        self.copies: dict[nn.Module, nn.Module] = {module: _empty_copy(module) for module in originals}
        self.model = self.copies[originals[0]]
        self.hooks: RegisteredHooks | None = None  # those that a copy begins with, where later ones are handed on
        for module, copy in self.copies.items():
            self._fill(module, vars(copy), training)
        for holder in self.holders:
            if self._refers(holder, SEARCH_DEPTH, set()):
                raise NotReplicableError(f"{type(holder).__name__} {holder!r} refers to a module of the model")

    def _fill(self, module: nn.Module, state: dict[str, Any], training: bool | None) -> None:
        state.update(vars(module))
        state[ORIGINAL] = module
        if training is not None:
            state["training"] = training
        if "_compiled_call_impl" in state:
            state["_compiled_call_impl"] = None  # it is bound to the original; a compiled model runs as written
        state["_modules"] = _same_kind(
            children_of(module), {k: m if m is None else self.copies[m] for k, m in children_of(module).items()}
        )
        state["_parameters"] = _same_kind(
            parameters_of(module), {k: self._parameter(p) for k, p in parameters_of(module).items()}
        )
        state["_buffers"] = _same_kind(
            buffers_of(module), {k: self._tensor(b) for k, b in self._buffers(module).items()}
        )
        for name in HOOKS:
            hooks = state[name]
            state[name] = type(hooks)()
            if hooks:  # most have none, and all else is slow on an OrderedDict
                # In one step: another thread may register a hook meanwhile.
                state[name].update((key, self._private(hook)) for key, hook in list(hooks.items()))
                self._copied_hooks.update(state[name])
        attributes = vars(module)
        for name in attributes.keys() - MODULE_STATE:
            value, kind = attributes[name], type(attributes[name])
            if kind not in PLAIN_TYPES and not (kind is tuple and PLAIN_TYPES.issuperset(map(type, value))):
                state[name] = self._private(value)
        for name in self._slots_of_kind(type(module)):
            if hasattr(module, name):
                object.__setattr__(self.copies[module], name, self._private(getattr(module, name)))
        kind = type(module)
        if kind not in self._bodies:
            self._bodies[kind] = {k: v for k, v in body_of(kind).items() if type(v) not in PLAIN_TYPES}
        if self._bodies[kind] and not self._share_state:
            state.update(self._of_body(module))

    def _of_body(self, module: nn.Module) -> dict[str, Any]:
        """Copies of what the body of the module's class holds and a pass may write into by `self`."""
        values = {k: v for k, v in self._bodies[type(module)].items() if k not in vars(module)}
        copies = {k: self._private(v) for k, v in values.items()}
        return {k: v for k, v in copies.items() if v is not values[k]}

    def _slots_of_kind(self, kind: type) -> tuple[str, ...]:
        if kind not in self._slots:
            self._slots[kind] = slot_names(kind)
        return self._slots[kind]

    def _buffers(self, module: nn.Module) -> dict[str, Tensor | None]:
        """The buffers that the copy of a module starts from."""
        earlier = {} if self._share_state else self._earlier.get(module, {})
        return {**buffers_of(module), **earlier} if earlier else buffers_of(module)

    def _parameter(self, parameter: Any) -> Any:
        if parameter is None:
            return parameter
        if type(parameter) is not nn.Parameter and nn.parameter.is_lazy(parameter):
            raise InvalidInputError("the model has lazy layers without weights; run it on a batch once, model(inputs)")
        if not self._share_weights or parameter.is_inference():  # autograd refuses tensors that `inference_mode` made
            return self._copied(parameter)
        if not self._freeze or not parameter.requires_grad or not parameter.is_leaf:
            return parameter
        if id(parameter) not in self._weights:
            plain = type(parameter) is nn.Parameter
            self._weights[id(parameter)] = nn.Parameter(parameter, False) if plain else parameter.detach()
        return self._weights[id(parameter)]

    def _copied(self, parameter: nn.Parameter) -> Any:
        """A parameter with the same values in other memory, the same one for a parameter that is shared."""
        if id(parameter) not in self._weights:
            self._weights[id(parameter)] = deepcopy(parameter)
        return self._weights[id(parameter)]

    def _tensor(self, tensor: Any) -> Any:
        if tensor is None or self._share_state or not isinstance(tensor, Tensor):
            return tensor
        if isinstance(tensor, nn.parameter.UninitializedBuffer):
            return tensor
        if id(tensor) not in self._tensors:
            loses_graph = tensor.requires_grad and self._freeze
            self._tensors[id(tensor)] = tensor.detach().clone() if loses_graph else tensor.clone()
        return self._tensors[id(tensor)]

    def _private(self, value: Any) -> Any:  # noqa: PLR0911
        """The value of an attribute in the copy."""
        kind = type(value)
        if kind in PLAIN_TYPES:
            return value
        if isinstance(value, tuple):
            if PLAIN_TYPES.issuperset(map(type, value)):
                return value
            items = [self._private(item) for item in value]
            if all(a is b for a, b in zip(items, value, strict=True)):
                return value
            return kind(*items) if hasattr(value, "_fields") else kind(items)
        if kind in CONTAINERS or isinstance(value, DICTS):
            return self._container(value)
        if isinstance(value, nn.Module):
            return self.copies.get(value, value)
        if isinstance(value, Tensor):
            return self._parameter(value) if isinstance(value, nn.Parameter) else self._tensor(value)
        if kind is types.MethodType and isinstance(value.__self__, nn.Module):
            return types.MethodType(value.__func__, self.copies.get(value.__self__, value.__self__))
        if kind is functools.partial:
            return functools.partial(
                self._private(value.func),
                *(self._private(a) for a in value.args),
                **{k: self._private(v) for k, v in value.keywords.items()},
            )
        if kind in self.private_classes and not self._share_state and (access_to(value) or holds_attributes(value)):
            return self._object(value)
        self.holders.append(value)
        return value

    def _object(self, value: Any) -> Any:
        if id(value) in self._containers:
            return self._containers[id(value)]
        access = access_to(value)
        copy = self._containers[id(value)] = empty_object(type(value)) if access is None else access.copy(value)
        if access is None:
            set_attributes(copy, {name: self._private(item) for name, item in attributes_of(value).items()})
        return copy

    @contextlib.contextmanager
    def restarted(self, written: Iterable[tuple[nn.Module, str]]) -> Iterator[None]:
        """For one pass the state as found; hooks that the model registers on itself in it are taken off again.

        Args:
            written: as for `restart`.
        """
        with DisableTorchFunction():
            self.restart(written)
        hooks = RegisteredHooks(self.copies.values())
        try:
            yield
        finally:
            hooks.remove_later()

    def restart(self, written: Iterable[tuple[nn.Module, str]]) -> None:
        """Give the copies the state that the model has now in what its passes write, as if they had not run.

        Args:
            written: weights, buffers and attributes by the user's module and their name.
        """
        self._tensors.clear()
        self._containers.clear()
        if not self._share_weights:
            self._weights.clear()
        for module, name in written:
            copy, state = self.copies[module], vars(module)
            if name in parameters_of(module):
                parameters_of(copy)[name] = self._parameter(parameters_of(module)[name])
            elif name in buffers_of(module):
                buffers_of(copy)[name] = self._tensor(self._buffers(module)[name])
            elif name in state:
                vars(copy)[name] = self._private(state[name])
            elif name in slots_of(module):
                object.__setattr__(copy, name, self._private(slots_of(module)[name]))
            else:
                buffers_of(copy).pop(name, None)
                vars(copy).pop(name, None)
                vars(copy).update((k, v) for k, v in self._of_body(module).items() if k == name)
        for module, copy in self.copies.items():  # another thread's pass may have registered some by now
            for table in HOOKS:
                present = vars(copy)[table]
                for key, hook in list(vars(module)[table].items()):
                    if key not in present and key not in self._copied_hooks:
                        present[key] = self._private(hook)

    def _container(self, value: Any) -> Any:
        if id(value) in self._containers:
            return self._containers[id(value)]
        copy = value.copy()
        self._containers[id(value)] = copy
        if len(value) > LARGE_CONTAINER or isinstance(value, set):
            return value if self._share_state else copy
        pairs = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        changed = False
        for key, item in pairs:
            if type(item) not in PLAIN_TYPES:
                copy[key] = self._private(item)
                changed |= copy[key] is not item
        if self._share_state and not changed:
            self._containers[id(value)] = value
            return value
        return copy

    def _refers(self, value: Any, depth: int, visited: set[int], *, containers: bool = True) -> bool:
        """Whether a value leads to a module of the model, or to one of the containers that have been copied."""
        if type(value) in PLAIN_TYPES or depth < 0 or id(value) in visited:
            return False
        visited.add(id(value))
        if isinstance(value, nn.Module):
            return value in self.copies
        if isinstance(value, (Tensor, type)):
            return False
        if containers and id(value) in self._containers and self._containers[id(value)] is not value:
            return True
        return any(self._refers(item, depth - 1, visited, containers=containers) for item in _references(value))

    def is_reached_past(self) -> bool:
        """Whether the code of the model's own classes names a module of it by other ways than its attributes.

        A branch that has not run yet may take such a way.
        """
        kinds = {type(module) for module in self.copies}
        functions = (
            function
            for kind in kinds
            for base in kind.__mro__
            if not base.__module__.startswith("torch.")
            for function in vars(base).values()
            if isinstance(function, types.FunctionType)
        )
        return any(self._refers(function, SEARCH_DEPTH, set(), containers=False) for function in functions)

    def write_back(self) -> None:
        """Hand the attributes and buffers that a pass assigned anew, and its hooks, to the user's modules."""
        originals = {copy: module for module, copy in self.copies.items()}
        if self.hooks is not None:
            self.hooks.hand_on(originals)
        for module, copy in self.copies.items():
            buffers = buffers_of(module)
            for name, buffer in buffers_of(copy).items():
                if buffers.get(name) is not buffer:
                    buffers[name] = buffer
            state = vars(module)
            for name, value in slots_of(copy).items():
                object.__setattr__(module, name, value)
            for name, value in vars(copy).items():
                if name not in MODULE_STATE and type(value) is not types.MethodType and state.get(name) is not value:
                    replaced = originals.get(value, value) if isinstance(value, nn.Module) else value
                    if id(state.get(name)) not in self._containers:
                        state[name] = replaced


def _references(value: Any) -> list[Any]:  # noqa: PLR0911
    """The objects that a function, a method, a partial, a weak reference, a container or an object refers to."""
    if isinstance(value, types.FunctionType):
        cells = [c.cell_contents for c in value.__closure__ or () if _is_filled(c)]
        used = [value.__globals__[n] for n in _global_names(value.__code__) if n in value.__globals__]
        globals_ = [v for v in used if isinstance(v, (nn.Module, *CONTAINERS, tuple))]
        return [*cells, *(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values(), *globals_]
    if isinstance(value, types.MethodType):
        return [value.__self__]
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, weakref.ReferenceType):
        return [value()]
    if isinstance(value, dict):
        return list(value.values()) if len(value) <= LARGE_CONTAINER else []
    if isinstance(value, (list, tuple, set, frozenset, collections.deque)):
        return list(value) if len(value) <= LARGE_CONTAINER else []
    return [] if isinstance(value, type) else list(attributes_of(value).values())


@functools.lru_cache(maxsize=4096)
def _global_names(code: types.CodeType) -> frozenset[str]:
    """The globals that a function reads, also in functions inside it; `co_names` has the names of attributes, too."""
    names = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return frozenset(names).union(*(_global_names(c) for c in code.co_consts if isinstance(c, types.CodeType)))


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _same_kind(like: Any, content: dict[str, Any]) -> Any:
    return content if type(like) is dict else type(like)(content)


def _empty_copy(module: nn.Module) -> nn.Module:
    if isinstance(module, torch.jit.ScriptModule):
        raise NotReplicableError("a scripted module cannot be copied")
    try:
        copy: nn.Module = object.__new__(type(module))
    except TypeError as err:
        raise NotReplicableError(f"a {type(module).__name__} cannot be copied: {err}") from err
    return copy

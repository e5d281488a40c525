"""The layers of a model: found by name, read as they run, replaced by other activations."""

from __future__ import annotations

import contextlib
import copy
import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from xaikit.core import torch_private
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NestedLayersError, UnknownNameError, near_names
from xaikit.core.graphs import depends_on
from xaikit.core.replica import first_original_of
from xaikit.core.structure import Tensors

INPUT = ".input"  # "features.3.input" names what goes into the layer "features.3"


class LayerPoint(NamedTuple):
    """A place in a model: what a layer returns, or what goes into it.

    Attributes:
        name: of the layer; with ``.input`` behind for what goes into it.
        module: the layer.
        is_input: whether the place is before the layer.
        ends: of an `nn.Sequential` its first and its last layer. They stand for it in a model that runs the layers
            inside and not the Sequential, as timm's models do between activation checkpoints.
    """

    name: str
    module: nn.Module
    is_input: bool = False
    ends: tuple[nn.Module, nn.Module] | None = None

    def at_input(self) -> LayerPoint:
        """What goes into the layer."""
        return self if self.is_input else self._replace(name=self.name + INPUT, is_input=True)


def find_layer(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """Name and module of a layer given as either.

    Raises:
        UnknownNameError: when the model has no such layer; near names are given.
        InvalidTypeError: for what is neither, such as a number.
    """
    names = {name: module for name, module in model.named_modules() if name}
    if not isinstance(layer, (str, nn.Module)):
        hint = f", such as {str(layer)!r}" if str(layer) in names else f", {layers_to_name(model)}"
        raise InvalidTypeError(f"a layer must be given by its name or as a module{hint}, got {layer!r}")
    if isinstance(layer, str):
        if layer not in names:
            raise UnknownNameError(f"the model has no layer {layer!r}{near_names(layer, names)}")
        return layer, names[layer]
    for name, module in names.items():
        if module is layer or first_original_of(module) is first_original_of(layer):
            return name, module
    raise UnknownNameError(f"the given {type(layer).__name__} layer is no part of this {type(model).__name__}")


def find_point(model: nn.Module, layer: str | nn.Module) -> LayerPoint:
    """The output of a layer given by name or module, or the input of the layer before ``.input``.

    Raises:
        UnknownNameError: when the model has no such layer; near names are given.
    """
    if isinstance(layer, str) and layer.endswith(INPUT) and not _has(model, layer):
        _, module = find_layer(model, layer.removesuffix(INPUT))
        return LayerPoint(layer, module, is_input=True, ends=_ends(model, module))
    name, module = find_layer(model, layer)
    return LayerPoint(name, module, ends=_ends(model, module))


def layers_to_name(model: nn.Module) -> str:
    """Some layers of a model that a user may name, for messages: "such as 'conv1' or 'layer4'".

    Args:
        model: of the user.
    """
    names = [name for name, module in model.named_modules() if name and not list(module.children())]
    return f"such as {' or '.join(map(repr, names[-3:-1] or names))}"


def _ends(model: nn.Module, module: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The first and the last layer inside a Sequential, if these are parts of nothing else."""
    if not _is_sequential(module):
        return None
    first = last = module
    while _is_sequential(first):
        first = next(iter(first.children()))
    while _is_sequential(last):
        last = list(last.children())[-1]
    places = [m for _, m in model.named_modules(remove_duplicate=False) if m is first or m is last]
    return (first, last) if len(places) == len({first, last}) else None


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward and len(module) > 0


def _has(model: nn.Module, name: str) -> bool:
    return any(name == module_name for module_name, _ in model.named_modules())


# ---------------------------------------------------------------------- reading


def cut_at(
    model: nn.Module,
    layers: Sequence[LayerPoint | tuple[str, nn.Module]],
    forward: Callable[[], Any],
    n: int,
    create_graph: bool,
) -> Tensors:
    """The outputs of some layers during one forward pass, each shaped (N, ...).

    With `create_graph` they keep their graph, so that a derivative reaches the parameters before the layer.

    Raises:
        InvalidInputError: when a layer does not run, or has no batch dimension.
        NestedLayersError: when one layer feeds another.
        InvalidTypeError: when a layer's output holds no floating-point tensor first.
    """
    points = [LayerPoint(*layer) for layer in layers]
    with torch.set_grad_enabled(create_graph or len(points) > 1):
        readings = read(points, forward)
    activations = [
        check_activation(model, point.name, outputs, n) for point, outputs in zip(points, readings, strict=True)
    ]
    check_parallel([point.name for point in points], readings)
    return tuple(a if create_graph else a.detach() for a in activations)


def read(points: Sequence[LayerPoint], forward: Callable[[], Any]) -> list[list[Any]]:
    """The values at each point during one forward pass, run by run, as they are at that moment."""
    readings: list[list[Any]] = [[] for _ in points]

    def reader(index: int) -> Callable[[Any], Any]:
        def note(value: Any) -> Any:
            first = first_tensor(value)
            if isinstance(first, Tensor) and first.is_floating_point() and torch.is_grad_enabled():
                # Parameters may be frozen; what follows must still be known to depend on this.
                first = first if first.requires_grad else first.detach().clone().requires_grad_()
            readings[index].append(first)
            # What follows may work in place, and would change what is kept here.
            return with_first(value, first.clone()) if isinstance(first, Tensor) else None

        return note

    with hooked([(point, reader(i)) for i, point in enumerate(points)]):
        forward()
    return readings


def check_outputs(model: nn.Module, name: str, outputs: Sequence[Any], n: int, *, parts: bool = False) -> None:
    """Refuse what a layer returned where it makes no activations of N samples.

    Args:
        model: the model.
        name: of the layer.
        outputs: what it returned, run by run.
        n: the number of samples, N.
        parts: whether it may return several rows for each sample.

    Raises:
        InvalidInputError: when the layer does not run or does not keep the batch.
        InvalidTypeError: when its output holds no floating-point tensor first.
    """
    if not outputs:
        twin = _with_weights_of(model, name)
        ran = (
            f", such as {twin!r}, which has the same weights" if twin else near_names(name, _leaf_names(model) - {name})
        )
        ran = f"; name a layer that runs{ran}"
        raise InvalidInputError(f"layer {name!r} does not run in the model's forward pass{ran}")
    for first in outputs:
        if not isinstance(first, Tensor) or not first.is_floating_point():
            raise InvalidTypeError(
                f"layer {name!r} must return a floating-point tensor (first), got {type(first).__name__}"
            )
        rows = len(first) if first.ndim else 0
        if parts and rows and rows % n == 0:
            continue
        if rows != n and first.ndim > 2 and first.shape[1] == n:
            raise batch_is_second(name, first)
        if rows != n:
            several = rows and rows % n == 0
            by_parts = "a method of a single gradient (gradient, gradient_x_input, LRP), which takes several rows for "
            instead = f"use {by_parts}each sample" if several else "explain the inputs"
            raise InvalidInputError(
                f"layer {name!r} must keep the batch of {n} first, it returns {tuple(first.shape)}; name a layer "
                f"after which the batch is whole, or {instead}"
            )
    if len({first.shape for first in outputs}) > 1:
        shapes = ", ".join(str(tuple(first.shape)) for first in outputs)
        raise InvalidInputError(
            f"layer {name!r} runs {len(outputs)} times in a forward pass, and its outputs differ in shape ({shapes}); "
            "name a layer that runs once"
        )


def batch_is_second(name: str, output: Tensor) -> InvalidInputError:
    """The error for a layer that returns (T, N, ...).

    Args:
        name: of the layer.
        output: what it returned.
    """
    return InvalidInputError(
        f"layer {name!r} must keep the batch first, and it returns {tuple(output.shape)} with the batch second; give "
        "its module batch_first=True, where it has that, name a layer before or after the transposition, or explain "
        "the inputs"
    )


def check_activation(model: nn.Module, name: str, outputs: Sequence[Any], n: int) -> Tensor:
    """The activations of a layer for each sample: (N, ...), or (N, runs, ...) where it runs several times in a pass.

    Raises:
        InvalidInputError, InvalidTypeError: as `check_outputs`.
    """
    check_outputs(model, name, outputs, n)
    return by_sample(outputs)


def by_sample(outputs: Sequence[Tensor]) -> Tensor:
    """What a layer returned (N, ...) in each of its runs, as (N, ...) or (N, runs, ...)."""
    return outputs[0] if len(outputs) == 1 else torch.stack(list(outputs), 1)


def _leaf_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if name and not torch_private.children_of(module)}


def _with_weights_of(model: nn.Module, name: str) -> str | None:
    """Another layer that shares a weight with the named one, as an encoder does with a model's tied embedding."""
    weights = set(dict(model.named_modules())[name].parameters(recurse=False)) if name in _leaf_names(model) else set()
    others = ((other, module) for other, module in model.named_modules() if other and other != name)
    return next((other for other, module in others if weights & set(module.parameters(recurse=False))), None)


def check_parallel(names: Sequence[str], readings: Sequence[Sequence[Tensor]]) -> None:
    """Several layers are explained together only when none feeds another: substitution would cut the path.

    Raises:
        NestedLayersError: naming both.
    """
    for i, j in itertools.permutations(range(len(names)), 2):
        earlier = [output for output in readings[i] if output.requires_grad]
        if earlier and any(depends_on(later, earlier) for later in readings[j]):
            raise NestedLayersError(f"layer {names[i]!r} feeds layer {names[j]!r}: explain them in separate calls")


def check_runs(points: Sequence[LayerPoint], readings: Sequence[Sequence[Any]]) -> None:
    """Refuse a layer of which one run feeds another: replacing the later one would cut the path from the earlier.

    Raises:
        InvalidInputError: naming the layer.
    """
    for point, outputs in zip(points, readings, strict=True):
        for later in outputs:
            others = [o for o in outputs if o is not later and isinstance(o, Tensor) and o.requires_grad]
            if isinstance(later, Tensor) and others and depends_on(later, others):
                raise InvalidInputError(
                    f"layer {point.name!r} runs {len(outputs)} times in a forward pass, and one run feeds another; "
                    "this method replaces all of them at once. Name a layer that runs once, or use a method of a "
                    "single gradient, such as gradient, gradient_x_input or LRP"
                )


# ---------------------------------------------------------------------- replacing


def substituted(
    layers: Sequence[LayerPoint], activations: Tensors, runs: Sequence[int]
) -> contextlib.AbstractContextManager[None]:
    """While active, each layer returns the given activation in place of what it computed.

    Args:
        layers: points of the model.
        activations: for each layer (N, ...), or (N, runs, ...) where it runs several times in a pass.
        runs: how often each layer runs in a pass.
    """

    def put(value: Tensor, count: int) -> Callable[[Any], Any]:
        position = 0

        def replace(output: Any) -> Any:
            nonlocal position
            one = value if count == 1 else value[:, position % count]
            position += 1
            return with_first(output, one.clone())  # what follows the layer may work in place

        return replace

    return hooked([(layer, put(a, count)) for layer, a, count in zip(layers, activations, runs, strict=True)])


@contextlib.contextmanager
def hooked(hooks: Sequence[tuple[nn.Module | LayerPoint, Callable[[Any], Any]]]) -> Iterator[None]:
    """While active, each function gets the value at its point; what it returns, unless None, replaces the value.

    A module stands for its output. In this thread only: another may run the same model.
    """
    thread = threading.get_ident()
    ran: set[nn.Module] = set()  # layers with `ends` that ran themselves

    def after(function: Callable[[Any], Any]) -> Callable[..., Any]:
        return lambda _module, _inputs, output: function(output) if threading.get_ident() == thread else None

    def before(function: Callable[[Any], Any]) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            if threading.get_ident() != thread:
                return None
            if args:
                changed = function(args)
                return None if changed is None else (changed, kwargs)
            changed = function(kwargs)
            return None if changed is None else (args, changed)

        return hook

    def unless_ran(layer: nn.Module, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda value: None if layer in ran else function(value)

    def put_last(handle: RemovableHandle) -> Callable[[nn.Module, Any], None]:
        """Behind the hooks that a model registers while it runs, which change what the layer returns."""

        def hook(module: nn.Module, _args: Any) -> None:
            behind = torch_private.forward_hooks_of(module)
            if next(reversed(behind)) != handle.id and handle.id in behind:
                behind[handle.id] = behind.pop(handle.id)

        return hook

    handles = []
    for place, function in hooks:
        point = place if isinstance(place, LayerPoint) else LayerPoint("", place)
        registered = [(point.module, function)]
        if point.ends is not None:
            handles.append(point.module.register_forward_pre_hook(lambda layer, _: ran.add(layer)))
            registered.append((point.ends[0 if point.is_input else 1], unless_ran(point.module, function)))
        for module, hook in registered:
            if point.is_input:
                handles.append(module.register_forward_pre_hook(before(hook), with_kwargs=True))
            else:
                handle = module.register_forward_hook(after(hook))
                handles += [module.register_forward_pre_hook(put_last(handle)), handle]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Any:
    """The tensor that a layer returns; of several the first one of floating point, or else the first."""
    key = _place_of_first(output)
    return output if key is None else first_tensor(output[key])


def with_first(output: Any, value: Tensor) -> Any:
    """A layer's output with another tensor in the place of `first_tensor`."""
    key = _place_of_first(output)
    if key is None:
        return value
    changed = with_first(output[key], value)
    if isinstance(output, Mapping):
        mapping: Any = copy.copy(output)
        mapping[key] = changed
        return mapping
    items = [*output[:key], changed, *output[key + 1 :]]
    if isinstance(output, list):
        return items
    return type(output)(*items) if hasattr(output, "_fields") else tuple(items)


def _place_of_first(output: Any) -> Any:
    """The key or the index of the entry that `first_tensor` looks into; None where there are no entries."""
    if not isinstance(output, (Mapping, tuple, list)) or not output:
        return None
    places = list(output) if isinstance(output, Mapping) else range(len(output))
    first = ((place, first_tensor(output[place])) for place in places)
    floating = (place for place, x in first if isinstance(x, Tensor) and x.is_floating_point())
    return next(floating, places[0])

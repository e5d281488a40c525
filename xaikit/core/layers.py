"""The layers of a model: found by name, read as they run, replaced by other activations."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NestedLayersError, UnknownNameError, near_names
from xaikit.core.graphs import depends_on
from xaikit.core.replica import first_original_of
from xaikit.core.structure import Tensors

INPUT = ".input"  # "features.3.input" names what goes into the layer "features.3"


class LayerPoint(NamedTuple):
    """A place in a model: what a layer returns, or what goes into it."""

    name: str
    module: nn.Module
    is_input: bool = False

    def at_input(self) -> LayerPoint:
        """What goes into the layer."""
        return self if self.is_input else LayerPoint(self.name + INPUT, self.module, is_input=True)


def find_layer(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """Name and module of a layer given as either.

    Raises:
        UnknownNameError: when the model has no such layer; near names are given.
    """
    names = {name: module for name, module in model.named_modules() if name}
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
        return LayerPoint(layer, module, is_input=True)
    return LayerPoint(*find_layer(model, layer))


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
    check_parallel([point.name for point in points], activations)
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


def check_activation(model: nn.Module, name: str, outputs: Sequence[Any], n: int) -> Tensor:
    """The activations of a layer for each sample: (N, ...), or (N, runs, ...) where it runs several times in a pass.

    Raises:
        InvalidInputError: when the layer does not run or does not keep the batch.
        InvalidTypeError: when its output holds no floating-point tensor first.
    """
    if not outputs:
        ran = "; name a layer that runs" + near_names(name, _leaf_names(model) - {name})
        raise InvalidInputError(f"layer {name!r} does not run in the model's forward pass{ran}")
    for first in outputs:
        if not isinstance(first, Tensor) or not first.is_floating_point():
            raise InvalidTypeError(
                f"layer {name!r} must return a floating-point tensor (first), got {type(first).__name__}"
            )
        if first.ndim == 0 or len(first) != n:
            raise InvalidInputError(
                f"layer {name!r} must keep the batch of {n} first, it returns {tuple(first.shape)}; name a layer "
                "after which the batch is whole, or explain the inputs"
            )
    if len({first.shape for first in outputs}) > 1:
        shapes = ", ".join(str(tuple(first.shape)) for first in outputs)
        raise InvalidInputError(
            f"layer {name!r} runs {len(outputs)} times in a forward pass, and its outputs differ in shape ({shapes}); "
            "name a layer that runs once"
        )
    return outputs[0] if len(outputs) == 1 else torch.stack(list(outputs), 1)


def _leaf_names(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if name and not torch_private.children_of(module)}


def check_parallel(names: Sequence[str], activations: Sequence[Tensor]) -> None:
    """Several layers are explained together only when none feeds another: substitution would cut the path."""
    for i, later in enumerate(activations):
        others = [(n, a) for j, (n, a) in enumerate(zip(names, activations, strict=True)) if j != i and a.requires_grad]
        if not later.requires_grad or not others:
            continue
        seed = torch.ones_like(later)
        grads = torch.autograd.grad(later, [a for _, a in others], seed, allow_unused=True, retain_graph=True)
        for (name, _), g in zip(others, grads, strict=True):
            if g is not None:
                raise NestedLayersError(f"layer {name!r} feeds layer {names[i]!r}: explain them in separate calls")


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

    handles = []
    for point, function in hooks:
        if isinstance(point, LayerPoint) and point.is_input:
            handles.append(point.module.register_forward_pre_hook(before(function), with_kwargs=True))
        else:
            module = point.module if isinstance(point, LayerPoint) else point
            handles.append(module.register_forward_hook(after(function)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output: Any) -> Any:
    """The tensor that a layer returns, or the first one if it returns several."""
    if isinstance(output, Mapping) and output:
        return first_tensor(next(iter(output.values())))
    return first_tensor(output[0]) if isinstance(output, (tuple, list)) and output else output


def with_first(output: Any, value: Tensor) -> Any:
    """A layer's output with another first tensor."""
    if isinstance(output, Mapping) and output:
        changed: Any = copy.copy(output)
        key = next(iter(output))
        changed[key] = with_first(output[key], value)
        return changed
    if isinstance(output, tuple) and output:
        others = (with_first(output[0], value), *output[1:])
        return type(output)(*others) if hasattr(output, "_fields") else others
    return [with_first(output[0], value), *output[1:]] if isinstance(output, list) and output else value

"""The layers of a model: found by name, read as they run, replaced by other activations."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError, NestedLayersError, UnknownNameError, near_names
from xaikit.core.structure import Tensors


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
        if module is layer:
            return name, module
    raise UnknownNameError(f"the given {type(layer).__name__} layer is no part of this {type(model).__name__}")


def cut_at(
    model: nn.Module, layers: Sequence[tuple[str, nn.Module]], forward: Callable[[], Any], n: int, create_graph: bool
) -> Tensors:
    """The outputs of some layers during one forward pass, each shaped (N, ...).

    With `create_graph` they keep their graph, so that a derivative reaches the parameters before the layer.

    Raises:
        InvalidInputError: when a layer does not run exactly once or has no batch dimension.
        NestedLayersError: when one layer feeds another.
        InvalidTypeError: when a layer's output holds no floating-point tensor first.
    """
    seen: dict[str, list[Any]] = {name: [] for name, _ in layers}
    with (
        hooked([(module, seen[name].append) for name, module in layers]),
        torch.set_grad_enabled(create_graph or len(layers) > 1),
    ):
        forward()
    activations = [check_activation(name, outputs, n) for name, outputs in seen.items()]
    _check_parallel([name for name, _ in layers], activations)
    return tuple(a if create_graph else a.detach() for a in activations)


def check_activation(name: str, outputs: Sequence[Any], n: int) -> Tensor:
    """The one tensor (N, ...) that a layer returned during a forward pass.

    Raises:
        InvalidInputError: when the layer does not run exactly once or has no batch dimension.
        InvalidTypeError: when its output holds no floating-point tensor first.
    """
    if len(outputs) != 1:
        raise InvalidInputError(f"layer {name!r} must run once in a forward pass, it ran {len(outputs)} times")
    first = first_tensor(outputs[0])
    if not isinstance(first, Tensor) or not first.is_floating_point():
        raise InvalidTypeError(
            f"layer {name!r} must return a floating-point tensor (first), got {type(first).__name__}"
        )
    if first.ndim == 0 or len(first) != n:
        raise InvalidInputError(f"layer {name!r} must keep the batch of {n} first, it returns {tuple(first.shape)}")
    return first


def substituted(
    layers: Sequence[tuple[str, nn.Module]], activations: Tensors
) -> contextlib.AbstractContextManager[None]:
    """While active, each layer returns the given activation in place of what it computed."""

    def put(value: Tensor) -> Callable[[Any], Any]:
        # A clone, since what follows the layer may work in place.
        return lambda output: with_first(output, value.clone())

    return hooked([(module, put(a)) for (_, module), a in zip(layers, activations, strict=True)])


@contextlib.contextmanager
def hooked(hooks: Sequence[tuple[nn.Module, Callable[[Any], Any]]]) -> Iterator[None]:
    """While active, each function gets its module's outputs, and replaces those for which it returns something.

    In this thread only: another may run the same model.
    """
    thread = threading.get_ident()

    def own(function: Callable[[Any], Any]) -> Callable[..., Any]:
        return lambda _module, _inputs, output: function(output) if threading.get_ident() == thread else None

    handles = [module.register_forward_hook(own(function)) for module, function in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_parallel(names: list[str], activations: list[Tensor]) -> None:
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


def first_tensor(output: Any) -> Any:
    """What a layer returns, or the first of what it returns."""
    return output[0] if isinstance(output, (tuple, list)) and output else output


def with_first(output: Any, value: Tensor) -> Any:
    """A layer's output with another first tensor."""
    if isinstance(output, tuple):
        rest = (value, *output[1:])
        return type(output)(*rest) if hasattr(output, "_fields") else rest
    return [value, *output[1:]] if isinstance(output, list) else value

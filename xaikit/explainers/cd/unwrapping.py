"""The model inside its wrappers: contextual decomposition runs the Python code of the forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn

from xaikit.core import torch_private
from xaikit.core.errors import UnsupportedOperationError
from xaikit.core.layers import LayerPoint, first_tensor, hooked, with_first
from xaikit.core.lightning_private import lightning_inner
from xaikit.explainers.cd.decomposed import on_total


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside torch.compile, DataParallel, DistributedDataParallel or Lightning Fabric.

    Raises:
        UnsupportedOperationError: for a model of torch.jit, whose code is no longer Python, and for a quantised one.
    """
    quantised = torch_private.quantised_kind(model)
    if quantised is not None:
        raise UnsupportedOperationError(
            f"contextual decomposition has no rules for integers, and this is a quantised model ({quantised}); pass "
            "the floating-point model before quantisation, or use captum.feature_ablation"
        )
    while True:
        inner = torch_private.compiled_inner(model) or lightning_inner(model)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner, nn.Module):
            model = inner
        elif isinstance(model, torch.jit.ScriptModule):
            raise UnsupportedOperationError(
                "contextual decomposition cannot look inside a torch.jit module; pass the model as it was before "
                "torch.jit.script or torch.jit.trace"
            )
        else:
            return model


@contextlib.contextmanager
def observers_see_totals(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While active, observers of a later quantisation look at the values that the model sees, not at their parts."""
    hooks: list[tuple[nn.Module | LayerPoint, Callable[[Any], Any]]] = []
    for module in filter(torch_private.is_observer, modules):
        point, seen = LayerPoint("", module), _SeenTotal()
        hooks += [(point.at_input(), seen.before), (point, seen.after)]
    with hooked(hooks):
        yield


class _SeenTotal:
    """What goes into an observer, which it returns as it is."""

    def __init__(self) -> None:
        self._inputs: list[Any] = []

    def before(self, arguments: Any) -> Any:
        self._inputs.append(first_tensor(arguments))
        return with_first(arguments, on_total(self._inputs[-1]))

    def after(self, _output: Any) -> Any:
        return self._inputs.pop()

"""Layers read off in the pass that is differentiated, so that one forward and one backward pass serve all of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.layers import LayerPoint, check_outputs, first_tensor, hooked, with_first
from xaikit.core.structure import Tensors


class Tap(torch.autograd.Function):
    """y for what follows; what flows back to it also arrives at a leaf, where it is read off."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, leaf: Tensor) -> Tensor:  # noqa: ARG004, D102
        return y.clone()  # what follows may work in place

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ARG004, D102
        return grads[0], grads[0]


class Readings:
    """The outputs of some layers during one forward pass, and for each output a leaf that receives its gradient."""

    def __init__(self, layers: Sequence[LayerPoint]) -> None:
        self.points = layers
        self.outputs: list[list[Any]] = [[] for _ in layers]
        self.by_run: list[list[Tensor]] = [[] for _ in layers]

    def read(self, output: Any, *, index: int, tap: Callable[[Tensor, Tensor], Tensor]) -> Any:
        """Note what a layer returns; what follows gets it through a tap."""
        first = first_tensor(output)
        self.outputs[index].append(first)
        if not isinstance(first, Tensor) or not first.is_floating_point():
            return output  # the call refuses it when the pass is over
        leaf = first.detach().requires_grad_()
        self.by_run[index].append(leaf)
        return with_first(output, tap(first, leaf))

    def check(self, model: nn.Module, n: int) -> None:
        """Refuse layers that did not run, or returned no activations of n samples.

        Raises:
            InvalidInputError, InvalidTypeError: naming the layer.
        """
        for point, outputs in zip(self.points, self.outputs, strict=True):
            check_outputs(model, point.name, outputs, n, parts=True)

    @property
    def leaves(self) -> Tensors:
        """All leaves, layer by layer and run by run."""
        return tuple(leaf for leaves in self.by_run for leaf in leaves)

    @property
    def runs(self) -> list[int]:
        """How often each layer ran."""
        return [len(leaves) for leaves in self.by_run]

    def split(self, values: Tensors) -> list[list[Tensor]]:
        """Values in the order of the leaves, for each layer and run."""
        rest = iter(values)
        return [[next(rest) for _ in leaves] for leaves in self.by_run]


@contextlib.contextmanager
def tapped(layers: Sequence[LayerPoint], tap: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Readings]:
    """While active, each layer's output is read off as it passes."""
    readings = Readings(layers)
    with hooked([(point, functools.partial(readings.read, index=i, tap=tap)) for i, point in enumerate(layers)]):
        yield readings

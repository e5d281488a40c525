"""Hidden layers are read in the pass that is differentiated, so one forward and one backward pass serve all of them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.layers import LayerPoint, check_activation, first_tensor, hooked, with_first
from xaikit.core.structure import Tensors


class Tap(torch.autograd.Function):
    """Returns y; the gradient that flows back to y also arrives at a leaf tensor."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, leaf: Tensor) -> Tensor:  # noqa: ARG004, D102
        return y.clone()  # what follows may work in place

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ARG004, D102
        return grads[0], grads[0]


class Readings:
    """The outputs of some layers during one forward pass, and for each output a leaf that receives its gradient."""

    def __init__(self, layers: Sequence[LayerPoint]) -> None:
        self.names = [layer.name for layer in layers]
        self.outputs: list[list[Any]] = [[] for _ in layers]
        self.leaves: Tensors = ()
        self._leaves: list[list[Tensor]] = [[] for _ in layers]

    def read(self, output: Any, *, index: int, tap: Callable[[Tensor, Tensor], Tensor]) -> Any:
        """Note what a layer returns; what follows gets it through a tap."""
        first = first_tensor(output)
        self.outputs[index].append(first)
        if not isinstance(first, Tensor) or not first.is_floating_point():
            return output  # refused once the pass is over
        leaf = first.detach().requires_grad_()
        self._leaves[index].append(leaf)
        return with_first(output, tap(first, leaf))

    def close(self, model: nn.Module, n: int) -> Tensors:
        """The layers' activations, each shaped (N, ...), or (N, runs, ...) for a layer that runs several times.

        Raises:
            InvalidInputError, InvalidTypeError: when a layer did not run, or returned no such tensor.
        """
        activations = tuple(
            check_activation(model, name, outputs, n) for name, outputs in zip(self.names, self.outputs, strict=True)
        )
        self.leaves = tuple(leaf for leaves in self._leaves for leaf in leaves)
        return activations

    @property
    def runs(self) -> list[int]:
        """How often each layer ran."""
        return [len(leaves) for leaves in self._leaves]

    def gathered(self, gradients: Tensors) -> Tensors:
        """The derivatives by the layers, from those by the leaves; the runs of a layer side by side, as in `close`."""
        gathered, start = [], 0
        for leaves in self._leaves:
            runs = gradients[start : start + len(leaves)]
            start += len(leaves)
            gathered.append(runs[0] if len(runs) == 1 else torch.stack(runs, 1))
        return tuple(gathered)


@contextlib.contextmanager
def tapped(layers: Sequence[LayerPoint], tap: Callable[[Tensor, Tensor], Tensor]) -> Iterator[Readings]:
    """While active, each layer's output is read off as it passes."""
    readings = Readings(layers)
    with hooked([(point, functools.partial(readings.read, index=i, tap=tap)) for i, point in enumerate(layers)]):
        yield readings

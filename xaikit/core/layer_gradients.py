"""Activations of layers and the derivatives by them, by sample; which rows of a layer belong to which sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.layers import by_sample
from xaikit.core.structure import Tensors
from xaikit.core.taps import Readings, Tap, tapped
from xaikit.core.targets import CallTarget

if TYPE_CHECKING:
    from xaikit.core.call import Call


@dataclasses.dataclass(frozen=True)
class LayerGradients:
    """Activations of some layers and the derivatives by them, as the layers returned them.

    Attributes:
        activations: of each layer, run by run: (N, ...), or (R, ...) with several rows for each sample.
        gradients: d score / d each of them.
        n: the number of samples, N.
        sample_major: for each layer whether the rows of a sample stand together; else the samples stand together,
            part by part.
    """

    activations: list[list[Tensor]]
    gradients: list[list[Tensor]]
    n: int
    sample_major: list[bool]

    def gathered(self, values: Sequence[Sequence[Tensor]]) -> Tensors:
        """Tensors in the form of `activations` as (N, ...), with a further axis for the runs and one for the parts."""
        return tuple(
            by_sample([self._parts(value, major) for value in runs])
            for runs, major in zip(values, self.sample_major, strict=True)
        )

    def _parts(self, value: Tensor, sample_major: bool) -> Tensor:
        if len(value) == self.n:
            return value
        if sample_major:
            return value.unflatten(0, (self.n, -1))
        return value.unflatten(0, (-1, self.n)).transpose(0, 1)


def read_layers(call: Call, points: Sequence[Tensor] = ()) -> LayerGradients:
    """What the layers in `read_at` return and d score / d it, by one forward and one backward pass.

    Args:
        call: at the model's inputs.
        points: further tensors to which the backward pass must go, read once the forward pass is over.
    """

    def run() -> tuple[Readings, Tensor]:
        with tapped(call.read_at, call.tap) as readings:
            return readings, call.run(call.inputs)

    with call._kernels():
        readings, output = call._kept("layers", True, run)
        readings.check(call.model, call.n)
        if call.on_output is not None:
            call.on_output(output)
        grads = call._differentiated(output, (*readings.leaves, *points), runs=readings.runs)
    activations = [[a if call.create_graph else a.detach() for a in runs] for runs in readings.outputs]
    several_rows = [len(runs[0]) != call.n for runs in activations]
    major = [several and call.sample_major(i, call.target) for i, several in enumerate(several_rows)]
    return LayerGradients(activations, readings.split(grads), call.n, major)


def row_order(call: Call) -> Callable[[int, CallTarget], bool]:
    """A function that tells whether the rows of a sample stand together at a layer that is read off.

    They do where the model flattens choices (N, C, ...) to (N * C, ...). Towers that are joined along the batch keep
    the samples together, part by part. The function asks by which rows the score of one sample alone is moved; it runs
    the model once, and only where a layer has several rows for each sample.

    Args:
        call: at the model's inputs, with the layers in `read_at`.
    """

    def sample_major(index: int, target: CallTarget) -> bool:
        if call.n == 1:
            return True  # either is the same
        point = call.read_at[index]
        with torch.enable_grad(), tapped((point,), Tap.apply) as readings:
            scores = dataclasses.replace(call, target=target).score(call.run(call.inputs)).unbind()
        leaves = readings.leaves
        for i, score in enumerate(scores):
            grads = torch.autograd.grad(score, leaves, retain_graph=True, allow_unused=True)
            for g in grads:
                order = None if g is None else _order(g, i, call.n, point.name)
                if order is not None:
                    return order
        raise InvalidInputError(
            f"layer {point.name!r} returns {len(leaves[0])} rows for {call.n} samples, and no score tells which rows "
            "belong to which sample; name a layer after which the batch is whole, or explain the inputs"
        )

    return sample_major


def _order(gradient: Tensor, sample: int, n: int, name: str) -> bool | None:
    """What the rows that move one sample's score tell; None where they would be the same in either order.

    Raises:
        InvalidInputError: when they are neither.
    """
    rows = gradient.detach().flatten(1).any(1).nonzero()[:, 0]
    count = len(gradient) // n
    together, apart = bool((rows // count == sample).all()), bool((rows % n == sample).all())
    if not together and not apart:
        raise InvalidInputError(
            f"layer {name!r} returns {len(gradient)} rows for {n} samples, and a sample's score depends on rows of "
            "several; name a layer after which the batch is whole, or explain the inputs"
        )
    return None if together and apart else together

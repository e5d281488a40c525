"""Activations of layers and the derivatives by them, by sample; which rows of a layer belong to which sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.layers import LayerPoint, batch_is_second, by_sample
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
    major = [call.sample_major(i, call.target, runs[0]) for i, runs in enumerate(activations)]
    return LayerGradients(activations, readings.split(grads), call.n, major)


def row_order(call: Call) -> Callable[[int, CallTarget, Tensor], bool]:
    """A function that tells whether the rows of a sample stand together at a layer that is read off.

    They do where the model flattens choices (N, C, ...) to (N * C, ...). Towers that are joined along the batch keep
    the samples together, part by part. The function asks by which rows the score of one sample alone is moved; it runs
    the model once, and only where a layer has several rows for each sample, or may have the batch second.

    Args:
        call: at the model's inputs, with the layers in `read_at`.
    """

    def sample_major(index: int, target: CallTarget, activation: Tensor) -> bool:
        point, of_target = call.read_at[index], dataclasses.replace(call, target=target)
        if call.n == 1:
            return True  # with one sample both orders are the same
        check_batch_first(of_target, point, activation)
        if len(activation) == call.n:
            return False
        for i, gradient in _by_score(of_target, point):
            order = _order(gradient, i, call.n, point.name)
            if order is not None:
                return order
        raise InvalidInputError(
            f"layer {point.name!r} returns {len(activation)} rows for {call.n} samples, and no score tells which rows "
            "belong to which sample; name a layer after which the batch is whole, or explain the inputs"
        )

    return sample_major


def check_batch_first(call: Call, point: LayerPoint, activation: Tensor) -> None:
    """Refuse a layer that returns (T, N, ...), also where T happens to be N; asked once for a form of input.

    Args:
        call: at the model's inputs.
        point: the layer.
        activation: what it returned.

    Raises:
        InvalidInputError: naming the layer.
    """
    key = ("batch first", call.form, point.name, tuple(activation.shape))
    if call.n == 1 or activation.ndim < 3 or activation.shape[1] != call.n or key in call.facts.checked:
        return
    # A unit that is dead for some samples makes its axis look independent, so all samples together decide whether the
    # batch is the second axis.
    all_first = all_second = True
    for i, gradient in _by_score(call, point):
        moving = gradient.detach().flatten(2).any(2)
        first, second = (bool(moving.any(axis).nonzero().eq(i).all()) for axis in (1, 0))
        all_first, all_second = all_first and first, all_second and second
        if not all_second:
            break
    if all_second and not all_first:
        raise batch_is_second(point.name, activation)
    call.facts.checked.add(key)


def _by_score(call: Call, point: LayerPoint) -> Iterator[tuple[int, Tensor]]:
    """The number of each sample, and the gradient of its score alone by what a layer returned, run by run."""
    if call.target is None:  # all outputs are explained
        call = dataclasses.replace(call, target=lambda output: output.reshape(call.n, -1).sum(1))
    with torch.enable_grad(), tapped((point,), Tap.apply) as readings:
        scores = call.score(call.run(call.inputs)).unbind()
    for i, score in enumerate(scores):
        if score.requires_grad:
            grads = torch.autograd.grad(score, readings.leaves, retain_graph=True, allow_unused=True)
            yield from ((i, g) for g in grads if g is not None)


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

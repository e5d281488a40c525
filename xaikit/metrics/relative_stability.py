"""Relative stability: the relative change of an explanation over that of the input, the output or a hidden layer."""

from __future__ import annotations

import abc
from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit.core import METRICS, Call, Float, Layer
from xaikit.core.errors import InvalidInputError
from xaikit.core.layers import LayerPoint, find_point, read
from xaikit.core.replica import original_of
from xaikit.core.structure import Tensors
from xaikit.metrics.base import Attribute, EvaluationContext
from xaikit.metrics.randomisation import layers_from_output
from xaikit.metrics.robustness import Sensitivity, norm


class RelativeStability(Sensitivity, abc.ABC):
    """max over points x' of |(Phi(x) - Phi(x')) / Phi(x)| / change, element by element, norms over a sample.

    The points are those of `max_sensitivity`. Points at which the predicted class is another are left out; NaN where
    none is left. Where an element is 0, it counts as `eps` in the denominator.
    """

    DIRECTION = "minimize"

    eps: Annotated[float, Float(gt=0), "in the place of a denominator of 0"] = 1e-6

    @abc.abstractmethod
    def _state(self, call: Call, inputs: Tensors, copies: int) -> tuple[Tensors, Tensor]:
        """What the change is measured of, tensors (copies * N, ...), and the model's output."""

    @abc.abstractmethod
    def _change(self, before: Tensors, after: Tensors) -> Tensor:
        """The change (k, N) from tensors (N, ...) to (k, N, ...)."""

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        moves = self._moves(context)

        def measured(call: Call, attribute: Attribute) -> Tensor:
            parts, start = [], 0
            for part, passes in call.passes(self.n_iter, self.max_rows):
                before = tuple(a[start : start + part.n] for a in context.attributions)
                start += part.n
                state, output = self._state(part, part.inputs, 1)
                rows = []
                for some in passes:
                    k = len(some)
                    points = tuple(
                        (x + m[some.start : some.stop, None]).flatten(0, 1)
                        for x, m in zip(part.inputs, moves, strict=True)
                    )
                    after = attribute(part.stacked(points, k))
                    numerator = self._relative_change(before, tuple(a.unflatten(0, (k, -1)) for a in after))
                    moved, moved_output = self._state(part, points, k)
                    change = self._change(state, tuple(m.unflatten(0, (k, -1)) for m in moved))
                    ratio = numerator / torch.where(change > 0, change, self.eps)
                    rows.append(ratio.masked_fill(_reclassified(output, moved_output, k), -torch.inf))
                parts.append(torch.cat(rows).amax(0))
            largest = torch.cat(parts)
            return largest.masked_fill(largest == -torch.inf, torch.nan)

        return context.explain_again(measured)

    def _relative_change(self, before: Tensors, after: Tensors) -> Tensor:
        """The norm (k, N) of the changes, each relative to its element."""
        relative = tuple((b - a) / torch.where(b != 0, b, self.eps) for b, a in zip(before, after, strict=True))
        return norm(relative, dims=2)


def _reclassified(output: Tensor, moved: Tensor, copies: int) -> Tensor:
    """Where the predicted class of a copy is another, (copies, N); nowhere for a model without classes."""
    if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2:
        n = len(moved) // copies
        return torch.zeros(copies, n, dtype=torch.bool, device=moved.device)
    return moved.argmax(1).view(copies, -1) != output.argmax(1)


@METRICS.register("relative_input_stability")
class RelativeInputStability(RelativeStability):
    """RIS: relative change of the explanation over the relative change of the input; lower is more robust.

    Agarwal et al. 2022, arXiv:2203.06877, eq. 2.

    >>> from xaikit.explainers import Gradient
    >>> RelativeInputStability().evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(2, 3)).tolist()
    [0.0, 0.0]
    """

    def _state(self, call: Call, inputs: Tensors, copies: int) -> tuple[Tensors, Tensor]:
        return inputs, call.run(inputs, copies)

    def _change(self, before: Tensors, after: Tensors) -> Tensor:
        return self._relative_change(before, after)


@METRICS.register("relative_output_stability")
class RelativeOutputStability(RelativeStability):
    """ROS: relative change of the explanation over the change of the output; lower is more robust.

    Agarwal et al. 2022, arXiv:2203.06877, eq. 5. The output's change is that of all logits, not a relative one.

    >>> from xaikit.explainers import Gradient
    >>> RelativeOutputStability().evaluate(Gradient(torch.nn.Linear(3, 1)), torch.rand(2, 3)).tolist()
    [0.0, 0.0]
    """

    def _state(self, call: Call, inputs: Tensors, copies: int) -> tuple[Tensors, Tensor]:
        output = call.run(inputs, copies)
        return (output.reshape(len(output), -1),), output

    def _change(self, before: Tensors, after: Tensors) -> Tensor:
        return norm(tuple(a - b for b, a in zip(before, after, strict=True)), dims=2)


@METRICS.register("relative_representation_stability")
class RelativeRepresentationStability(RelativeStability):
    """RRS: relative change of the explanation over that of a hidden layer; lower is more robust.

    Agarwal et al. 2022, arXiv:2203.06877, eq. 3.

    >>> from xaikit.explainers import Gradient
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
    >>> RelativeRepresentationStability().evaluate(Gradient(model), torch.rand(2, 3)).tolist()
    [0.0, 0.0]
    """

    representation: Annotated[
        Any, Layer(several=True), "layers whose outputs are compared; None: what goes into the last one with parameters"
    ] = None

    def _state(self, call: Call, inputs: Tensors, copies: int) -> tuple[Tensors, Tensor]:
        outputs: list[Tensor] = []
        readings = read(self._points(call), lambda: outputs.append(call.run(inputs, copies)))
        rows = len(inputs[0])
        return tuple(t.detach().reshape(rows, -1) for runs in readings for t in runs if len(t) == rows), outputs[0]

    def _points(self, call: Call) -> list[LayerPoint]:
        if self.representation is None:
            model = original_of(call.model)
            last = next((unit[0] for unit in layers_from_output(call) if unit[0] is not model), None)
            if last is None:
                raise InvalidInputError(
                    f"{type(self).__name__} compares what goes into the last layer with parameters, and "
                    f"{type(model).__name__} holds none; name layers with representation=, or use "
                    "RelativeInputStability"
                )
            return [find_point(call.model, last).at_input()]
        several = self.representation if isinstance(self.representation, tuple) else (self.representation,)
        return [find_point(call.model, layer) for layer in several]

    def _change(self, before: Tensors, after: Tensors) -> Tensor:
        return self._relative_change(before, after)

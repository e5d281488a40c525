"""Bases of the metrics that remove features and measure how the model's output changes."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core import BASELINES, Call, Categorical, Choice, Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.rows import rows_per_pass
from xaikit.core.structure import Tensors, by_row
from xaikit.metrics.base import EvaluationContext, Metric
from xaikit.metrics.pooled_features import FeatureSet

Flags = Callable[[slice, range], Tensor]  # of which samples, in which copies


class PerturbationMetric(Metric, abc.ABC):
    """Measures the model's output on changed copies of the inputs.

    `IN_ORDER` says that it removes features in the order of their attribution. It then has no value, NaN, for a sample
    whose attribution is the same everywhere, and where the baseline is the sample itself.
    """

    IN_ORDER: ClassVar[bool] = False

    output: Annotated[
        str,
        Categorical("auto", "probability", "score", "accuracy", search=False),
        "what is watched: the probability, the explained score (a logit), accuracy (1 where the explained class is "
        "the predicted one, else 0), or auto: the probability where a class of several is explained, else the score",
    ] = "auto"
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most rows in one forward pass; None chooses"] = None

    def _values(self, context: EvaluationContext) -> Tensor:
        values = super()._values(context)
        return values.masked_fill(self._is_void(context), torch.nan) if self.IN_ORDER else values

    def _is_void(self, context: EvaluationContext) -> Tensor:
        """Which samples have nothing to order, or to remove, (N,)."""
        rows = [by_row(a) for a in context.attributions]
        if sum(row.shape[1] for row in rows) < 2:
            return torch.zeros_like(context.finite)
        low, high = (torch.stack([pick(row, 1) for row in rows]) for pick in (torch.amin, torch.amax))
        return low.amin(0) == high.amax(0)

    def _watch(self, call: Call, copies: int, change: Callable[[Call, slice, range], Tensors]) -> Tensor:
        """The measured output of each changed copy, (copies, N).

        `change` gets a call on n of the samples, the slice of these samples, and the range of the k copies to make. It
        returns tensors (k, n, ...), or tensors that broadcast to this shape.
        """
        parts, start = [], 0
        # Twice the rows of a gradient pass, since inference keeps no activations; see benchmarks/metrics.py.
        for part, passes in call.passes(copies, self.max_rows or 2 * rows_per_pass(call.inputs)):
            samples = slice(start, start + part.n)
            start += part.n
            watched = []
            for some in passes:
                shapes = ((len(some), *x.shape) for x in part.inputs)
                changed = (r.expand(s).flatten(0, 1) for r, s in zip(change(part, samples, some), shapes, strict=True))
                output = part.run(tuple(changed), len(some))
                watched.append(self._watched(part, output, len(some)).unflatten(0, (-1, part.n)))
            parts.append(torch.cat(watched))
        return torch.cat(parts, 1)

    def _unchanged(self, context: EvaluationContext) -> Tensor:
        """The measured output of the inputs as they are, (N,)."""
        return self._watch(context.call, 1, lambda call, _samples, _some: call.inputs)[0]

    def _watched(self, call: Call, output: Any, copies: int) -> Tensor:
        """The measured output of each row: the score, a probability, or whether the prediction is right."""
        if not isinstance(output, Tensor) or output.ndim > 2:  # of several outputs, or at many places
            if self.output in ("accuracy", "probability"):
                raise InvalidInputError(
                    f"{type(self).__name__}.output={self.output!r} needs an output of shape (N, classes); use 'score', "
                    "and for a probability a target such as Probability(Position(-1, 5))"
                )
            score = call.score(output, copies)
            return score.float() if score.dtype in (torch.float16, torch.bfloat16) else score
        # An area of low-precision numbers would be mostly rounding.
        output = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
        several = output.ndim > 1 and output.shape[1] > 1
        if self.output == "accuracy":
            if not several or not isinstance(call.target, Tensor):
                raise InvalidInputError(
                    f"{type(self).__name__}.output='accuracy' needs class targets and several classes; "
                    f"use 'probability' or 'score'"
                )
            return (output.argmax(1) == call.target.repeat(copies)).to(output)
        if self.output == "probability" or (self.output == "auto" and several and isinstance(call.target, Tensor)):
            output = output.softmax(1) if several else output.sigmoid()
        return call.score(output, copies)


class Removal(PerturbationMetric, abc.ABC):
    """Replaces parts of the inputs by a baseline."""

    baseline: Annotated[Any, Choice(BASELINES), "what replaces a feature: a name, a number, a tensor or a Baseline"] = (
        "zeros"
    )

    def _is_void(self, context: EvaluationContext) -> Tensor:
        pairs = zip(context.call.inputs, self.baseline.of(context.call), strict=True)
        unchanged = torch.stack([by_row(x == b).all(1) for x, b in pairs]).all(0)
        return super()._is_void(context) | unchanged

    def _removed(self, context: EvaluationContext, parts: FeatureSet, copies: int, removed: Flags) -> Tensor:
        """The measured output (copies, N) without the parts that ``removed(samples, copies)`` (k, n or 1, P) flags."""
        baselines = self.baseline.of(context.call)

        def change(call: Call, samples: slice, some: range) -> Tensors:
            features = parts if call.n == context.call.n else parts.at(samples)
            flags = features.spread(removed(samples, some))
            stand_ins = (b[samples] for b in baselines)
            return tuple(torch.where(f, b, x) for f, b, x in zip(flags, stand_ins, call.inputs, strict=True))

        return self._watch(context.call, copies, change)

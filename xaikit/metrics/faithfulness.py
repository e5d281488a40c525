"""Pixel flipping: replace features in the order of their attribution and watch the model's output."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from xaikit.core import BASELINES, METRICS, POOLINGS, Call, Categorical, Choice, Explainer, Int
from xaikit.core.rows import rows_per_pass
from xaikit.metrics.base import Case, Metric, finite_samples
from xaikit.transforms.axes import CHANNEL_AXIS, axis_setting, channel_axis

Interval = tuple[int, int]  # of ranks, the end excluded


def _rows(value: Any, where: str) -> Any:
    return value if value is None else Int(ge=1).check(value, where)


class Curves(NamedTuple):
    """Model outputs while features are replaced.

    Attributes:
        fraction: share of the positions that are replaced, (K + 1,), from 0 to 1.
        morf: output when the most relevant positions go first, (N, K + 1).
        lerf: output when the least relevant positions go first, (N, K + 1).
    """

    fraction: Tensor
    morf: Tensor
    lerf: Tensor


class PixelFlipping(Metric, abc.ABC):
    """What the flipping metrics share.

    In step k = 0..K the first round(k P / K) of the P positions, ranked by attribution, are replaced by the baseline.
    A position is a place with all its channels, whose attributions are pooled; where there is no channel axis it is
    one feature. Inputs with fewer than K positions are flipped one by one. Of equal attributions the first in memory
    counts as the more relevant.
    """

    ORDERS: ClassVar[tuple[str, ...]] = ("morf", "lerf")

    n_steps: Annotated[int, Int(ge=1), "steps K from the input to the baseline"] = 10
    baseline: Annotated[Any, Choice(BASELINES), "what replaces a feature: a name, a number, a tensor or a Baseline"] = (
        "zeros"
    )
    output: Annotated[
        str,
        Categorical("auto", "probability", "score", search=False),
        "what is watched: the probability, the explained score (a logit), or auto: the probability where a class of "
        "several is explained, else the score",
    ] = "auto"
    pooling: Annotated[
        Any,
        Choice(POOLINGS),
        "how the attributions of a place's channels are joined; none, abs and positive flip every element by itself",
    ] = "sum"
    channel_axis: Annotated[int | None, axis_setting, CHANNEL_AXIS] = None
    max_rows: Annotated[int | None, _rows, "most rows in one forward pass; None chooses"] = None

    def curves(
        self, explainer: Explainer, inputs: Any, targets: Any = None, attributions: Any = None, *, seed: int = 0
    ) -> Curves:
        """The flipping curves of each sample; arguments as for `evaluate`."""

        def both(case: Case) -> Curves:
            fraction, curves = self._curves(case, ("morf", "lerf"))
            return Curves(fraction, **curves)

        return self._measure(both, explainer, inputs, targets, attributions, seed)

    def _areas(self, case: Case) -> dict[str, Tensor]:
        """Area under each curve of `ORDERS`, by the trapezoidal rule over the replaced share, (N,)."""
        fraction, curves = self._curves(case, self.ORDERS)
        return {order: torch.trapezoid(curve, fraction, dim=1) for order, curve in curves.items()}

    def _curves(self, case: Case, orders: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        ranks = self._ranks(case)
        total = ranks.shape[1]
        steps = min(self.n_steps, total)
        counts = [round(k * total / steps) for k in range(steps + 1)]
        replaced: dict[str, list[Interval]] = {
            "morf": [(0, count) for count in counts],
            "lerf": [(total - count, total) if count else (0, 0) for count in counts],
        }
        # The curves meet at both ends, so those two are run once.
        distinct = list(dict.fromkeys(interval for order in orders for interval in replaced[order]))
        outputs = self._outputs(case.call, ranks, distinct)
        outputs = outputs.masked_fill(~finite_samples(case.attributions), torch.nan)
        curves = {order: outputs[[distinct.index(i) for i in replaced[order]]].T for order in orders}
        return torch.tensor(counts, device=outputs.device, dtype=outputs.dtype) / total, curves

    def _ranks(self, case: Case) -> Tensor:
        """The rank of each position of all inputs together, 0 for the highest attribution, (N, P)."""
        pooled = torch.cat([self._pool(a).flatten(1) for a in case.attributions], 1)
        order = pooled.argsort(dim=1, descending=True, stable=True)
        steps = torch.arange(order.shape[1], device=order.device, dtype=torch.int32).expand(order.shape)
        return torch.empty_like(steps, memory_format=torch.contiguous_format).scatter_(1, order, steps)

    def _pool(self, attribution: Tensor) -> Tensor:
        return self.pooling(attribution, self._channels(attribution))

    def _channels(self, x: Tensor) -> int | None:
        """The axis over which `x` is pooled."""
        return channel_axis(x, self.channel_axis) if self.pooling.JOINS else None

    def _outputs(self, call: Call, ranks: Tensor, replaced: list[Interval]) -> Tensor:
        """The watched output with the positions of each interval of ranks replaced, (intervals, N)."""
        bounds = torch.tensor(replaced, device=ranks.device, dtype=ranks.dtype).T[..., None, None]
        baselines = self.baseline.of(call)
        parts = []
        # Twice the rows of a gradient pass, since inference keeps no activations; see benchmarks/metrics.py.
        limit = self.max_rows or 2 * rows_per_pass(call.inputs)
        for part, passes in call.passes(len(replaced), limit):
            chosen = slice(None) if part.samples is None else part.samples
            watched = []
            for copies in passes:
                low, high = bounds[:, copies.start : copies.stop]
                flipped = (ranks[chosen] >= low) & (ranks[chosen] < high)
                rows = self._replace(part, tuple(b[chosen] for b in baselines), flipped)
                watched.append(self._watched(part, part.run(rows, len(copies)), len(copies)).unflatten(0, (-1, part.n)))
            parts.append(torch.cat(watched))
        return torch.cat(parts, 1)

    def _replace(self, call: Call, baselines: tuple[Tensor, ...], flipped: Tensor) -> tuple[Tensor, ...]:
        """Copies of the inputs, stacked, with the baseline where `flipped` (copies, N, P) says so."""
        axes = [self._channels(x) for x in call.inputs]
        shapes = [[s for d, s in enumerate(x.shape) if d not in (0, a)] for x, a in zip(call.inputs, axes, strict=True)]
        masks = flipped.split([torch.Size(s).numel() for s in shapes], 2)
        rows = []
        for x, b, axis, shape, mask in zip(call.inputs, baselines, axes, shapes, masks, strict=True):
            placed = mask.unflatten(2, shape) if shape else mask[..., 0]
            placed = placed if axis is None else placed.unsqueeze(axis + 1)
            rows.append(torch.where(placed, b, x).flatten(0, 1))
        return tuple(rows)

    def _watched(self, call: Call, output: Tensor, copies: int) -> Tensor:
        """The number that is watched, one per row."""
        # An area of low-precision numbers would be mostly rounding.
        output = output.float() if output.dtype in (torch.float16, torch.bfloat16) else output
        several = output.ndim > 1 and output.shape[1] > 1
        if self.output == "probability" or (self.output == "auto" and several and isinstance(call.target, Tensor)):
            output = output.softmax(1) if several else output.sigmoid()
        return call.score(output, copies)


@METRICS.register("morf")
class MoRF(PixelFlipping):
    """Area under the output curve while the most relevant features go first; lower is more faithful.

    Mean over the replaced share of f(x with the most relevant features replaced) (Samek et al. 2017,
    arXiv:1509.06321).

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(4, 1))
    >>> MoRF(n_steps=2).evaluate(explainer, torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    DIRECTION = "minimize"
    ORDERS = ("morf",)

    def _evaluate(self, case: Case) -> Tensor:
        return self._areas(case)["morf"]


@METRICS.register("lerf")
class LeRF(PixelFlipping):
    """Area under the output curve while the least relevant features go first; higher is more faithful.

    Mean over the replaced share of f(x with the least relevant features replaced) (Samek et al. 2017,
    arXiv:1509.06321).

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(4, 1))
    >>> LeRF(n_steps=2).evaluate(explainer, torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    DIRECTION = "maximize"
    ORDERS = ("lerf",)

    def _evaluate(self, case: Case) -> Tensor:
        return self._areas(case)["lerf"]


@METRICS.register("abpc")
class AbPC(PixelFlipping):
    """Area between the perturbation curves: LeRF minus MoRF; higher is more faithful (Samek et al. 2017).

    Zero for a ranking that says nothing, whatever the model's output is.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(4, 1))
    >>> bool((AbPC().evaluate(explainer, torch.rand(3, 4), 0) >= 0).all())
    True
    """

    DIRECTION = "maximize"

    def _evaluate(self, case: Case) -> Tensor:
        areas = self._areas(case)
        return areas["lerf"] - areas["morf"]

"""Pixel flipping: replace features in the order of their attribution and watch the model's output."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core import METRICS, Explainer, Int
from xaikit.core.results import Result
from xaikit.metrics.base import EvaluationContext
from xaikit.metrics.perturbation import Removal
from xaikit.metrics.pooled_features import PooledFeatureMetric

RankRange = tuple[int, int]  # of ranks, the end excluded


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Curves(Result):
    """Model outputs while features are replaced; ``fraction, morf, lerf = curves`` takes it apart.

    Attributes:
        fraction: share of the positions that are replaced, (K + 1,), from 0 to 1.
        morf: output when the most relevant positions go first, (N, K + 1).
        lerf: output when the least relevant positions go first, (N, K + 1).
    """

    fraction: Tensor
    morf: Tensor
    lerf: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.fraction, self.morf, self.lerf))


class PixelFlipping(Removal, PooledFeatureMetric, abc.ABC):
    """Base of the flipping metrics.

    In step k = 0..K the first round(k P / K) of the P positions, ranked by attribution, are replaced by the baseline.
    A position is a pixel, token or step with all its channels, whose attributions are pooled; without a channel axis
    it is one feature. Inputs with fewer than K positions are flipped one by one. Of equal attributions, the one that
    comes first in memory counts as more relevant.
    """

    IN_ORDER: ClassVar[bool] = True
    ORDERS: ClassVar[tuple[str, ...]] = ("morf", "lerf")

    n_steps: Annotated[int, Int(ge=1), "steps K from the input to the baseline"] = 10

    def curves(
        self, explainer: Explainer, inputs: Any, targets: Any = None, attributions: Any = None, *, seed: int = 0
    ) -> Curves:
        """The flipping curves of each sample; arguments as for `evaluate`."""

        def both(context: EvaluationContext) -> Curves:
            fraction, curves = self._curves(context, ("morf", "lerf"))
            return Curves(
                fraction, **{o: c.masked_fill(~context.finite[:, None], torch.nan) for o, c in curves.items()}
            )

        return self._measure(both, explainer, inputs, targets, attributions, seed=seed)

    def _areas(self, context: EvaluationContext) -> dict[str, Tensor]:
        """Area under each curve of `ORDERS`, by the trapezoidal rule over the replaced share, (N,)."""
        fraction, curves = self._curves(context, self.ORDERS)
        return {order: torch.trapezoid(curve, fraction, dim=1) for order, curve in curves.items()}

    def _curves(self, context: EvaluationContext, orders: tuple[str, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        places = self._pooled_features(context)
        ranked = ranks(places.values)
        total = ranked.shape[1]
        steps = min(self.n_steps, total)
        counts = [round(k * total / steps) for k in range(steps + 1)]
        replaced: dict[str, list[RankRange]] = {
            "morf": [(0, count) for count in counts],
            "lerf": [(total - count, total) if count else (0, 0) for count in counts],
        }
        # The curves meet at both ends, so those two are run once.
        distinct = list(dict.fromkeys(interval for order in orders for interval in replaced[order]))
        bounds = torch.tensor(distinct, device=ranked.device, dtype=ranked.dtype).T[..., None, None]

        def flipped(samples: slice, some: range) -> Tensor:
            low, high = bounds[:, some.start : some.stop]
            return (ranked[samples] >= low) & (ranked[samples] < high)

        outputs = self._removed(context, places, len(distinct), flipped)
        curves = {order: outputs[[distinct.index(i) for i in replaced[order]]].T for order in orders}
        return torch.tensor(counts, device=outputs.device, dtype=outputs.dtype) / total, curves


def ranks(values: Tensor) -> Tensor:
    """The rank of each of the values (N, P) in its row, 0 for the highest; of equal values the first is higher."""
    order = values.argsort(dim=1, descending=True, stable=True)
    steps = torch.arange(order.shape[1], device=order.device, dtype=torch.int32).expand(order.shape)
    return torch.empty_like(steps, memory_format=torch.contiguous_format).scatter_(1, order, steps)


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

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        return self._areas(context)["morf"]


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

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        return self._areas(context)["lerf"]


@METRICS.register("abpc")
class AbPC(PixelFlipping):
    """Area between the perturbation curves: LeRF minus MoRF; higher is more faithful (Samek et al. 2017).

    Zero in the mean for a random ranking, whatever the model's output is.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> explainer = GradientXInput(torch.nn.Linear(4, 1))
    >>> bool((AbPC().evaluate(explainer, torch.rand(3, 4), 0) >= 0).all())
    True
    """

    DIRECTION = "maximize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        areas = self._areas(context)
        return areas["lerf"] - areas["morf"]


@METRICS.register("deletion")
class Deletion(MoRF):
    """Area under the probability while the most relevant features are deleted; lower is more faithful.

    MoRF with probabilities (Petsiuk et al. 2018, arXiv:1806.07421). A model with a single output has no probability;
    there the output itself is measured.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> Deletion(n_steps=2).evaluate(GradientXInput(torch.nn.Linear(4, 2)), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    n_steps = 50


@METRICS.register("insertion")
class Insertion(LeRF):
    """Area under the probability while the most relevant features are inserted; higher is more faithful.

    The curve starts from the baseline (by default a strongly blurred input, as in the paper) and puts the features
    back, the most relevant first (Petsiuk et al. 2018, arXiv:1806.07421). Read backwards, it is LeRF's curve.

    >>> import torch
    >>> from xaikit.explainers import GradientXInput
    >>> Insertion(n_steps=2).evaluate(GradientXInput(torch.nn.Linear(4, 2)), torch.rand(3, 4), 0).shape
    torch.Size([3])
    """

    n_steps = 50
    baseline = "blur"

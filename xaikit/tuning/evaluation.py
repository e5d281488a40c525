"""Measuring an explainer in a search: the mean of each goal over the samples."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import torch
from torch import Tensor

from xaikit.core.batch import Batch, is_whole_batch_target
from xaikit.core.errors import InvalidInputError
from xaikit.core.masks import leaves_of
from xaikit.core.results import Interval
from xaikit.tuning.goals import Goal
from xaikit.tuning.search import IntermediateReport, Measurement

LEVEL = 0.95  # confidence of the interval of a gain


@dataclasses.dataclass(frozen=True)
class ExplanationMeasure:
    """Measures a candidate: (explainer,) or (explainer, postprocessor).

    Attributes:
        goals: what is measured.
        data: the samples, in batches.
        seed: of every random number.
    """

    goals: tuple[Goal, ...]
    data: list[Batch]
    seed: int

    def __call__(self, candidate: tuple[Any, ...], report: IntermediateReport | None = None) -> Measurement:
        """Means over the samples, NaN where not finite; after each batch the mean so far is reported.

        A candidate that is not finite in one batch is not run on the others, since its mean is NaN in any case.
        """
        values: list[Tensor] = []
        for i, batch in enumerate(self.data):
            values.append(self.samples(candidate, batch))
            means = torch.cat(values, 1).mean(1).tolist()
            if not all(map(math.isfinite, means)):
                return Measurement([m if math.isfinite(m) else math.nan for m in means])
            if report is not None and i + 1 < len(self.data):
                report(means[0])
        return Measurement(means, torch.cat(values, 1))

    def samples(self, candidate: tuple[Any, ...], batch: Batch) -> Tensor:
        """Each goal of each sample that counts, (goals, N)."""
        explainer, *after = candidate
        postprocess = after[0] if after else None
        attributions = None
        if sum(len(goal.terms) for goal in self.goals) > 1:
            # Explained once for all metrics.
            attributions = explainer.attribute(batch.inputs, batch.labels, seed=self.seed)
            attributions = attributions if postprocess is None else postprocess(attributions)
        options: dict[str, Any] = {"postprocess": postprocess, "seed": self.seed}
        values = torch.stack([goal.evaluate(explainer, batch, attributions, **options) for goal in self.goals])
        # A batch whose target is a function or an object is explained whole, also its samples without a region.
        return values[:, _has_region(batch)] if any(goal.needs_masks for goal in self.goals) else values


def gain_interval(goal: Goal, best: Tensor, default: Tensor) -> Interval | None:
    """The mean gain per sample with its 95 % interval, by Student's t; None for a single sample.

    Args:
        goal: says which way is better.
        best: the goal of each sample (N,) with the best settings.
        default: the same with the first settings.
    """
    from scipy.special import stdtrit

    gain = (best - default) if goal.direction == "maximize" else (default - best)
    if len(gain) < 2:
        return None
    n, mean = len(gain), float(gain.mean())
    margin = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * float(gain.std()) / math.sqrt(n)
    return Interval(mean - margin, mean, mean + margin, LEVEL, n)


def samples_with_region(batches: list[Batch]) -> list[Batch]:
    """The samples that have a relevant region, since a metric that compares with it has no value for the others.

    Raises:
        InvalidInputError: when no sample has one.

    Warns:
        UserWarning: when samples are left out.
    """
    chosen = []
    for batch in batches:
        if batch.masks is None:
            continue
        if is_whole_batch_target(batch.labels):
            if bool(_has_region(batch).any()):
                chosen.append(batch)  # whole: a function or a target may hold a value for each sample
            continue
        rows = _has_region(batch).nonzero().flatten()
        if len(rows):
            chosen.append(batch if len(rows) == batch.size else batch.take(rows))
    n = sum(int(_has_region(batch).sum()) for batch in chosen)
    total = sum(batch.size for batch in batches)
    if not n:
        raise InvalidInputError("relevant_region is empty for every sample, so the metric says nothing of any of them")
    if n < total:
        warnings.warn(
            f"{total - n} of {total} samples have no relevant region and are left out of the search", stacklevel=4
        )
    return chosen


def _has_region(batch: Batch) -> Tensor:
    """Which samples have a relevant region, (N,)."""
    return torch.stack([(mask != 0).flatten(1).any(1).cpu() for mask in leaves_of(batch.masks)]).any(0)

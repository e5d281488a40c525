"""What a candidate explanation is worth: the goals over the samples of a search."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import structure
from xaikit.core.batch import Batch
from xaikit.core.masks import leaves_of
from xaikit.core.results import Interval
from xaikit.tuning.goals import Goal
from xaikit.tuning.search import IntermediateReport, Measurement

LEVEL = 0.95  # confidence of the interval of a gain


@dataclasses.dataclass(frozen=True)
class ExplanationMeasure:
    """Measures (explainer,) or (explainer, postprocessor).

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

        A candidate that is not finite in one batch is not run on the others: its mean is settled.
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
        """Each goal of each sample, (goals, N)."""
        explainer, *after = candidate
        postprocess = after[0] if after else None
        attributions = None
        if sum(len(goal.terms) for goal in self.goals) > 1:
            # Explained once for all metrics.
            attributions = explainer.attribute(batch.inputs, batch.labels, seed=self.seed)
            attributions = attributions if postprocess is None else postprocess(attributions)
        options: dict[str, Any] = {"postprocess": postprocess, "seed": self.seed}
        return torch.stack([goal.evaluate(explainer, batch, attributions, **options) for goal in self.goals])


def gain_interval(goal: Goal, best: Tensor, default: Tensor) -> Interval | None:
    """The mean gain per sample with its 95 % interval, by Student's t; None for a single sample.

    Args:
        goal: says which way is better.
        best: the goal of each sample (N,) with the best settings.
        default: the same with the first settings.
    """
    from scipy.stats import t

    gain = (best - default) if goal.direction == "maximize" else (default - best)
    if len(gain) < 2:
        return None
    n, mean = len(gain), float(gain.mean())
    margin = float(t.ppf((1 + LEVEL) / 2, n - 1)) * float(gain.std()) / math.sqrt(n)
    return Interval(mean - margin, mean, mean + margin, LEVEL, n)


def fingerprint_of_data(data: list[Batch]) -> str:
    """The samples in a few words, by which a study knows them again."""
    digest, count = hashlib.blake2b(digest_size=6), 0
    for batch in data:
        targets = batch.labels
        tensors = structure.flatten(batch.inputs)[0] + leaves_of(batch.masks)
        count += batch.size
        extra = targets if isinstance(targets, Tensor) else torch.as_tensor(targets) if _is_numbers(targets) else None
        for tensor in (*tensors, *(() if extra is None else (extra,))):
            _update(digest, tensor)
        if extra is None:
            digest.update(getattr(targets, "__qualname__", repr(targets)).encode())
    return f"{count} samples in {len(data)} batches ({digest.hexdigest()})"


def fingerprint_of_model(model: nn.Module) -> str:
    """The model in a few words: another training gives another one."""
    digest = hashlib.blake2b(digest_size=6)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, Tensor):
            _update(digest, tensor)
    return f"{type(model).__name__} ({digest.hexdigest()})"


def _is_numbers(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value))


def _update(digest: Any, tensor: Tensor) -> None:
    plain = tensor.detach().cpu().contiguous()
    digest.update(f"{tuple(plain.shape)} {plain.dtype}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")

"""A quick measurement: each suitable explainer on a few samples, within a time that the user sets."""

from __future__ import annotations

import dataclasses
import time
import warnings
from typing import Any

import torch
from torch import Tensor

from xaikit.core import structure
from xaikit.core.batch import is_whole_batch_target
from xaikit.core.percentages import percent
from xaikit.core.process_wide import warnings_ignored
from xaikit.metrics import Metric
from xaikit.metrics.table import bootstrap_interval
from xaikit.recommendation.candidates import Candidate, error_as_reason

LEVEL = 0.95  # of the intervals
BACKWARD = 3.0  # a forward and backward pass takes about as long as three forward passes
NOTABLE = 0.1  # share of the score; an attribution that misses its promised sum by more gets a reason that says so


def measured(  # noqa: PLR0913
    candidates: list[Candidate],
    metric: Metric,
    inputs: Any,
    targets: Any,
    *,
    seconds: float,
    forward: float,
    seed: int = 0,
) -> list[Candidate]:
    """The candidates with their measurements, cheap ones measured first; an error becomes a reason against one.

    Args:
        candidates: what to measure; those that are not suitable are left as they are.
        metric: the measure.
        inputs: the samples.
        targets: their targets.
        seconds: time limit; a method that would end later is left out, with its expected time as a reason.
        forward: seconds of one forward pass on the samples.
        seed: of the explainers and the metric.
    """
    end = time.perf_counter() + seconds
    values: dict[str, Tensor] = {}
    results = {}
    for item in sorted(candidates, key=lambda c: c.passes):
        results[item.name] = item
        if not item.suitable:
            continue
        try:
            expected = BACKWARD * item.passes * forward
            if expected <= end - time.perf_counter():
                expected = _seconds_per_sample(item, inputs, targets) * len(structure.flatten(inputs)[0][0])
            remaining = end - time.perf_counter()
            if expected > remaining:
                late = f"not measured: it takes about {expected:.2g} s, {max(remaining, 0):.2g} s are left"
                results[item.name] = _with_reason(item, late)
                continue
            results[item.name], sample_values = _measured_on_all(item, metric, inputs, targets, seed)
        except Exception as err:  # noqa: BLE001
            # Any error of the method or the model is a reason against this candidate; the others are still measured.
            results[item.name] = dataclasses.replace(item, against=error_as_reason(err))
            continue
        if sample_values is not None:
            values[item.name] = sample_values
    return [_with_tie(results[c.name], values, metric) for c in candidates]


def _seconds_per_sample(item: Candidate, inputs: Any, targets: Any) -> float:
    """Seconds for one sample: the shorter of two calls, since the first one may import a library."""
    if is_whole_batch_target(targets):
        return 0.0  # a function or a target may hold values per sample
    tensors, rebuild = structure.flatten(inputs)
    first = rebuild(tuple(t[:1] for t in tensors))
    target = targets[:1] if isinstance(targets, Tensor) and targets.ndim else targets
    durations: list[float] = []
    with warnings_ignored():  # they come again, and are kept, when all samples are explained
        for _ in range(2):
            start = time.perf_counter()
            item.explainer.attribute(first, target)
            durations.append(time.perf_counter() - start)
            if durations[0] > 1:
                break
    return min(durations)


def _measured_on_all(
    item: Candidate, metric: Metric, inputs: Any, targets: Any, seed: int
) -> tuple[Candidate, Tensor | None]:
    """The candidate with its value, time and what was noticed; and the metric of each sample."""
    explainer, missed = item.explainer, 0.0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = time.perf_counter()
        attributions = explainer.attribute(inputs, targets, seed=seed)
        seconds = time.perf_counter() - start
        value = metric.evaluate(explainer, inputs, targets, attributions, seed=seed).double().cpu()
        if explainer.promises_total():
            explained = explainer.explain(inputs, targets, seed=seed)
            if explained.gap is not None and explained.scores is not None:
                missed = float(explained.gap.sum() / explained.scores.abs().sum().clamp_min(1e-30))
    if missed > NOTABLE:
        item = _with_reason(item, f"misses its promised sum by {percent(missed, 0)} of the score")
    for text in dict.fromkeys(str(w.message) for w in caught):
        item = _with_reason(item, f"warns: {text}")
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        return _with_reason(item, f"{metric.NAME} is not finite on {bad} of {len(value)} samples"), None
    interval = bootstrap_interval(value.tolist(), LEVEL, seed)
    return dataclasses.replace(item, interval=interval, seconds=seconds / len(value)), value


def _with_tie(item: Candidate, values: dict[str, Tensor], metric: Metric) -> Candidate:
    """Whether the best one's lead, sample by sample, is within two of its standard errors."""
    if item.name not in values:
        return item
    sign = 1 if metric.DIRECTION == "maximize" else -1
    best = max(values, key=lambda name: sign * float(values[name].mean()))
    lead = sign * (values[best] - values[item.name])
    return dataclasses.replace(item, tied=item.name == best or float(lead.mean()) <= 2 * _standard_error(lead))


def _standard_error(value: Tensor) -> float:
    """The standard error of the mean over samples; infinite for a single sample."""
    return float(value.std() / len(value) ** 0.5) if len(value) > 1 else float("inf")


def _with_reason(item: Candidate, reason: str) -> Candidate:
    return dataclasses.replace(item, reasons=(*item.reasons, reason))

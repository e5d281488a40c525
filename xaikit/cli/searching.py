"""Making the search of `xaikit tune` from its options: explainers, metrics, space and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from xaikit.cli.inputs import read_batch
from xaikit.cli.options import check_masked, device_of, named_target, numbers, targets_of
from xaikit.cli.stream import MaskedBatch, Stream, targets_for
from xaikit.core import EXPLAINERS, Int
from xaikit.core.errors import InvalidInputError
from xaikit.tuning.search import Search
from xaikit.tuning.space_selection import ALL
from xaikit.tuning.tune import explanation_search

if TYPE_CHECKING:
    from xaikit.cli.tune import Tune


def search_of(job: Tune) -> tuple[Search, Stream]:
    """The search, with model and samples loaded; and where these came from.

    Raises:
        InvalidInputError, InvalidTypeError, UnknownNameError: for options that cannot be right.
    """
    for text in job.explainer:  # before a large model is loaded
        EXPLAINERS.create(text)
    if not job.explainer:
        raise InvalidInputError("name at least one --explainer")
    metric, space = _metric(job), _space(job)
    size = Int(ge=0).check(job.batch_size, "--batch-size")
    device_of(job.device)
    model = job.loaded()
    samples = _samples(job, model)
    by_class = job.source is not None and named_target(job.target) is None
    targets = _targets(job.target, len(samples)) if by_class else []
    parts = list(samples) if size else [samples.whole()]
    with_layer = job.with_embedding_layer(model, samples.first)
    explainers = [with_layer.bound(text, model) for text in job.explainer]
    search = explanation_search(
        explainers if len(explainers) > 1 else explainers[0],
        metric,
        [_metric_batch(job, part, targets, model) for part in parts],
        sampler=job.sampler,
        pruner=job.pruner or None,
        seed=job.seed,
        space=space,
        postprocess=job.postprocess,
    )
    return search, samples


def _samples(job: Tune, model: nn.Module) -> Stream:
    if bool(job.data) == (job.source is not None):
        raise InvalidInputError("name either an INPUT or --data, a data set")
    data = job.samples(job.model) if job.source is None else read_batch(job.source, job.preparation(job.model))[0]
    size = {"batch_size": job.batch_size} if job.batch_size else {}
    masks = job.masks(data)
    check_masked(job.metric, masks)
    data = job.fit_labels(data, model, needed=job.target == "label")
    return Stream(data, masks, limit=job.limit if job.source is None else 0, **size)


def _metric_batch(job: Tune, part: MaskedBatch, targets_given: list[int], model: nn.Module) -> tuple[Any, ...]:
    """A batch as the metrics take it."""
    head = job.view()["head"]
    if job.source is None or named_target(job.target) is not None:
        targets = targets_for(job.target, part, model, head)
    else:
        chosen = [targets_given[i] for i in part.indices.tolist()] if len(targets_given) > 1 else targets_given
        targets = targets_of(chosen, model, part.inputs.to(device_of(job.device)), head)
    return (part.inputs, targets) if part.masks is None else (part.inputs, targets, part.masks)


def _metric(job: Tune) -> Any:
    names = list(job.metric)
    if not names:
        raise InvalidInputError("name at least one --metric")
    if not job.weigh:
        return names if len(names) > 1 else names[0]
    weights = numbers(job.weigh, float, "--weigh")
    if len(weights) != len(names):
        raise InvalidInputError(f"--weigh takes a number for each --metric ({len(names)}), got {len(weights)}")
    return dict(zip(names, weights, strict=True))


def _space(job: Tune) -> dict[str, Any] | str | None:
    if not job.vary or job.vary == (ALL,):
        return ALL if job.vary else None
    parts = (text.partition("=") for text in job.vary)
    return {name: [_value(v) for v in choices.split(",") if v] if equals else None for name, equals, choices in parts}


def _targets(text: str, n: int) -> list[int]:
    """Classes out of a text or a .npy file: one for all of n samples, or one for each."""
    classes = _read_targets(text) if text.endswith(".npy") else numbers(text, int, "--target")
    if len(classes) not in (0, 1, n):
        raise InvalidInputError(f"--target takes one class for all samples, or one for each of {n}, got {len(classes)}")
    return classes


def _read_targets(text: str) -> list[int]:
    try:
        array = np.load(text, allow_pickle=False)
    except (ValueError, OSError, EOFError) as err:
        raise InvalidInputError(f"--target {text} is not an array of classes ({err})") from None
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InvalidInputError(f"--target {text} must hold a class for each sample, got {array.dtype} {array.shape}")
    return [int(v) for v in array]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)

"""Making the search of `xaikit tune` from its options: explainers, metrics, space and samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from xaikit.cli.inputs import read_batch
from xaikit.cli.options import check_masked, class_words, device_of, numbers
from xaikit.cli.stream import MaskedBatch, Stream
from xaikit.cli.targets import check_target, read_target, targets_for
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
    samples, data = _samples(job, model)
    target = _target(job, data)
    parts = list(samples) if size else [samples.whole()]
    if not isinstance(target, list):
        check_target(target, model, parts[0].inputs, job.view()["head"])
    with_layer = job.with_embedding_layer(model, samples.first)
    explainers = [with_layer.bound(text, model) for text in job.explainer]
    search = explanation_search(
        explainers if len(explainers) > 1 else explainers[0],
        metric,
        [_metric_batch(job, part, target, model) for part in parts],
        sampler=job.sampler,
        pruner=job.pruner or None,
        seed=job.seed,
        space=space,
        postprocess=job.postprocess,
    )
    return search, samples


def _samples(job: Tune, model: nn.Module) -> tuple[Stream, Any]:
    if bool(job.data) == (job.source is not None):
        both = f"INPUT {job.source} and --data" if job.data else "neither"
        raise InvalidInputError(f"name either an INPUT, or --data, a whole data set; got {both}")
    data = job.samples(job.model) if job.source is None else read_batch(job.source, job.preparation(job.model))[0]
    size = {"batch_size": job.batch_size} if job.batch_size else {}
    masks = job.masks(data)
    check_masked(job.metric, masks)
    data = job.fit_labels(data, model, needed=job.target == "label")
    return Stream(data, masks, limit=job.limit if job.source is None else 0, **size), data


def _metric_batch(job: Tune, part: MaskedBatch, target: Any, model: nn.Module) -> tuple[Any, ...]:
    """A batch as the metrics take it."""
    chosen = [target[i] for i in part.indices.tolist()] if isinstance(target, list) else target
    targets = targets_for(chosen, part.inputs, part.labels, model, job.view()["head"])
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


def _target(job: Tune, data: Any) -> Any:
    """What --target names; of INPUT also a class for each sample, in a text or a .npy file."""
    if job.source is None:
        return read_target(job.target, getattr(data, "classes", ()))
    target = (
        _read_targets(job.target)
        if job.target.endswith(".npy")
        else read_target(job.target, class_words(job.classes), per_sample=True)
    )
    if isinstance(target, list) and len(target) not in (1, len(data)):
        raise InvalidInputError(
            f"--target takes one class for all samples, or one for each of {len(data)}, got {len(target)}"
        )
    return target[0] if isinstance(target, list) and len(target) == 1 else target


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

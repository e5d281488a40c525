"""evaluate: several explainers by several metrics on the same samples, in one table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from tqdm import tqdm

from xaikit.core import EXPLAINERS, METRICS, Explainer, Float, Int, Registry
from xaikit.core.batch import Batch, count_batches, read_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnboundError
from xaikit.core.results import Stopped
from xaikit.metrics.base import Metric, Postprocess
from xaikit.metrics.table import Evaluation, make_row

NOT_REACHED = "not reached before Ctrl-C"


def evaluate(  # noqa: PLR0913
    explainers: Any,
    metrics: Any,
    data: Any,
    *,
    relevant_region: Any = None,
    model: nn.Module | None = None,
    postprocess: Postprocess | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    progress: bool = True,
) -> Evaluation:
    """Measure explainers by metrics on some samples.

    Each explainer explains each batch once, and all metrics measure that one attribution. Of a batch only the numbers
    are kept, one for each sample, so the data may be of any size. An explainer or a metric that fails leaves its reason
    in the table, and the others go on. Ctrl-C ends the work and keeps what was measured.

    Args:
        explainers: an explainer (its name, a spec, an object), several in a list, or a dict that labels them.
        metrics: a metric (its name, a spec, an object), several in a list, or a dict that labels them.
        data: ``(inputs, targets)`` or ``(inputs, targets, relevant_region)``; a loader or list of such batches, read
            once, batch by batch; or a data set of such samples. Tensors, numpy arrays, lists and pandas objects are
            read alike.
        relevant_region: where the relevance should lie, for metrics that compare with it: a mask for each sample of
            the data or one for all, in place of those in the data; see `Metric.evaluate`.
        model: for explainers that have none yet.
        postprocess: a function of each attribution, such as a `Postprocessor`.
        confidence: of the intervals.
        seed: of every random number.
        progress: show a progress bar.

    Returns:
        One row for each explainer and metric, with the mean, its interval and the value of each sample.

    Raises:
        InvalidInputError, InvalidTypeError, UnknownNameError: for arguments that cannot be right, such as a metric
            that compares with a region on data without any.
        UnboundError: for an explainer without a model.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> table = evaluate(["gradient", "gradient_x_input"], ["abpc", "sparseness"], (torch.rand(5, 4), 0), model=model,
    ...                  progress=False)
    >>> [(row.explainer, row.metric, row.n) for row in table][:2]
    [('gradient', 'abpc', 5), ('gradient', 'sparseness', 5)]
    """
    confidence, seed = Float(gt=0, lt=1).check(confidence, "confidence"), Int(ge=0).check(seed, "seed")
    named_explainers = bound(labelled(explainers, EXPLAINERS, Explainer), model)
    named_metrics: dict[str, Metric] = labelled(metrics, METRICS, Metric)
    # Data in memory is checked before anything is measured.
    first = next(iter(named_explainers.values())).model
    options: dict[str, Any] = {"model": first, "rows": None, "targets": True}
    batches: Any = read_batches(data, relevant_region, what="relevant_region", **options)
    batches = list(batches) if isinstance(data, (tuple, list)) else batches
    for batch in batches if isinstance(batches, list) else ():
        check_masks(named_metrics, batch)
    cells = {(e, m): TableCell() for e in named_explainers for m in named_metrics}
    count = count_batches(data, rows=None)
    total = None if count is None else count * len(named_explainers) * (len(named_metrics) + 1)
    stopped = Stopped.DONE
    with tqdm(total=total, desc="evaluate", unit="step", disable=not progress) as bar:
        try:
            for batch in batches:
                check_masks(named_metrics, batch)
                for label, explainer in named_explainers.items():
                    of_explainer = {name: cells[label, name] for name in named_metrics}
                    bar.set_postfix_str(label)
                    measure(explainer, named_metrics, of_explainer, batch, postprocess, seed, step_done=bar.update)
        except KeyboardInterrupt:
            if not any(cell.values for cell in cells.values()):
                raise
            stopped = Stopped.INTERRUPTED
    return as_table(named_explainers, named_metrics, cells, confidence=confidence, seed=seed, stopped=stopped)


def as_table(
    explainers: Mapping[str, Explainer],
    metrics: Mapping[str, Metric],
    cells: Mapping[tuple[str, str], TableCell],
    *,
    confidence: float,
    seed: int,
    stopped: Stopped,
) -> Evaluation:
    """The table of what was measured.

    Args:
        explainers: by label.
        metrics: by label.
        cells: by both labels.
        confidence: of the intervals.
        seed: of every random number.
        stopped: why it ended.
    """
    rows = []
    for (e, m), cell in cells.items():
        error = cell.error or (NOT_REACHED if not cell.values and stopped == Stopped.INTERRUPTED else None)
        direction = metrics[m].DIRECTION
        rows.append(make_row(e, m, direction, cell.values, confidence=confidence, seed=seed, error=error))
    return Evaluation(
        rows=tuple(rows),
        confidence=confidence,
        seed=seed,
        explainers={name: explainer.describe() for name, explainer in explainers.items()},
        metrics={name: _spec(metric) for name, metric in metrics.items()},
        stopped=stopped,
    )


def check_masks(metrics: Mapping[str, Metric], batch: Batch) -> None:
    """Refuse metrics that compare with masks on data without any.

    Args:
        metrics: by label.
        batch: of the data.

    Raises:
        InvalidInputError: for such a metric.
    """
    for name, metric in metrics.items():
        if metric.NEEDS_MASK and batch.masks is None:
            raise InvalidInputError(
                f"the metric {name!r} compares with masks, and the data has none: give relevant_region=, where the "
                f"relevance should lie, or (inputs, targets, relevant_region)"
            )


@dataclasses.dataclass
class TableCell:
    """The values of one metric of one explainer so far, or why it failed."""

    values: list[float] = dataclasses.field(default_factory=list)
    error: str | None = None


def measure(  # noqa: PLR0913
    explainer: Explainer,
    metrics: Mapping[str, Metric],
    cells: Mapping[str, TableCell],
    batch: Batch,
    postprocess: Postprocess | None,
    seed: int,
    *,
    step_done: Callable[[], object],
    attribute: Callable[[Explainer, Batch], Any] | None = None,
) -> None:
    """One batch: explained once, measured by every metric that has not failed yet.

    Args:
        explainer: with a model.
        metrics: by label.
        cells: what was measured so far, by the metrics' labels; the values are added there.
        batch: some samples.
        postprocess: of the attributions.
        seed: of every random number.
        step_done: called after the explanation and after each metric.
        attribute: explains a batch; None lets the explainer do it.
    """
    batch = batch.to(explainer.device)
    working = [name for name in metrics if cells[name].error is None]
    if not working:
        return
    try:
        if attribute is None:
            attributions = explainer.attribute(batch.inputs, batch.labels, seed=seed)
        else:
            attributions = attribute(explainer, batch)
        attributions = attributions if postprocess is None else postprocess(attributions)
    except Exception as err:  # an error of a method or a model is a result: it stands in the table
        for name in working:
            cells[name].error = _reason(err)
        return
    step_done()
    options = {"relevant_region": batch.masks, "postprocess": postprocess, "seed": seed}
    for name in working:
        try:
            values = metrics[name].evaluate(explainer, batch.inputs, batch.labels, attributions, **options)
            cells[name].values += values.double().tolist()
        except Exception as err:
            cells[name].error = _reason(err)
        step_done()


def labelled(values: Any, registry: Registry, kind: type) -> dict[str, Any]:
    """Objects by label: a name as it was given; else the registered name, or the repr where two share that name.

    Args:
        values: of the user.
        registry: that creates them.
        kind: their class.

    Raises:
        InvalidInputError, InvalidTypeError: for none, for another kind, or for two of one label.
    """
    if isinstance(values, Mapping) and "name" not in values:
        items = list(values.items())
    else:
        several = isinstance(values, (list, tuple))
        items = [(value if isinstance(value, str) else None, value) for value in (values if several else [values])]
    if not items:
        raise InvalidInputError(f"evaluate needs at least one {registry.kind}, got {values!r}")
    created = [(label, registry.create(value)) for label, value in items]
    for _, item in created:
        if not isinstance(item, kind):
            raise InvalidTypeError(f"evaluate needs {registry.kind}s, got {item!r}")
    names = [label or item.NAME or type(item).__name__ for label, item in created]
    labels = [
        name if label or names.count(name) == 1 else repr(item)
        for name, (label, item) in zip(names, created, strict=True)
    ]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise InvalidInputError(
            f"two {registry.kind}s go by the same label, {', '.join(sorted(map(repr, twice)))}; give a dict that "
            f"labels them"
        )
    return dict(zip(labels, (item for _, item in created), strict=True))


def bound(explainers: dict[str, Explainer], model: nn.Module | None) -> dict[str, Explainer]:
    """The explainers with a model.

    Args:
        explainers: by label.
        model: for those that have none.

    Raises:
        UnboundError: for one without a model where there is none.
    """
    for name, explainer in explainers.items():
        if explainer.model is None and model is None:
            raise UnboundError(f"the explainer {name!r} has no model yet; pass model=, or bind it")
    return {n: e.bind(model) if e.model is None and model is not None else e for n, e in explainers.items()}


def _spec(metric: Metric) -> Any:
    try:
        return metric.spec()
    except InvalidInputError:
        return {
            "name": metric.NAME or type(metric).__name__,
            "settings": {n: repr(v) for n, v in metric.settings().items()},
        }


def _reason(err: Exception) -> str:
    return f"{type(err).__name__}: {err}"

"""tune: the best settings of an explainer, or the best of several explainers, by one metric or more."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xaikit.core import MITIGATORS, POSTPROCESSORS, Explainer, Float, Int, as_explainer
from xaikit.core.batch import read_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnboundError
from xaikit.core.fingerprints import fingerprint_of_data, fingerprint_of_model
from xaikit.core.results import Stopped
from xaikit.metrics.base import Metric
from xaikit.tuning.assemble import assemble, best_row, row_at
from xaikit.tuning.evaluation import (
    ExplanationMeasure,
    gain_interval,
    samples_with_region,
)
from xaikit.tuning.goals import as_goals
from xaikit.tuning.result import FrontPoint, TuneResult
from xaikit.tuning.search import Search, run_search
from xaikit.tuning.space_selection import SpaceArgument, SpaceSelection, make_space, part_of_one, part_of_several

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # The explainer's own class; a search among several, or by a name, gives some Explainer.
    E = TypeVar("E", bound=Explainer, default=Explainer)

ROUNDING = 1e-6  # of a value: what models in single precision leave


def tune(  # noqa: PLR0913
    explainer: E | str | Sequence[Any],
    metric: Metric | str | Mapping[Any, float] | Sequence[Any],
    data: Any,
    *,
    relevant_region: Any = None,
    n_trials: int = 50,
    sampler: str = "tpe",
    pruner: Any = None,
    seed: int = 0,
    timeout: float | None = None,
    storage: Any = None,
    study_name: str | None = None,
    resume: bool = False,
    space: SpaceArgument = None,
    postprocess: Any = None,
    direction: str | None = None,
    cautious: bool = True,
    progress: bool = True,
) -> TuneResult[E]:
    """Search for the explainer, or the settings of an explainer, with the best mean of a metric over some samples.

    Trial 0 is the explainer as it is. If there are enough trials, the next ones change one setting each, which shows
    settings without an effect. Then the sampler proposes settings. Every trial explains with the same seed.
    Settings that are proposed again are not measured again. Ctrl-C ends the search and keeps its trials. Processes on
    one machine or on several work together when they name the same storage and study.

    Args:
        explainer: a bound explainer; or a list of explainers, of which the search chooses one and its settings. Names
            in a list are bound to the model of its first bound explainer.
        metric: a metric, or its name or spec; its DIRECTION says which way is better. A dict from metrics to positive
            weights is their weighted sum, in which metrics that are better when lower count negatively. A list is
            several objectives: see `TuneResult.front`.
        data: (inputs, targets), or (inputs, targets, relevant_region) for metrics that compare with a region; a loader
            or list of such batches; or a data set of such samples. Read once. Tensors, numpy arrays, lists and pandas
            objects are read alike.
        relevant_region: where the relevance should lie, for metrics that compare with it: a mask for each sample of
            the data or one for all, in place of those in the data; see `Metric.evaluate`. Samples without a region are
            left out of such a search.
        n_trials: trials to make, repeats included; in a storage, those of other processes count too.
        sampler: "tpe" (tree-structured Parzen estimator), "random", or "grid" (ten points of a range without a step).
        pruner: "median", "hyperband", or an Optuna pruner. It ends a trial after a batch where the mean so far is worse
            than in other trials.
        seed: of the sampler and of every trial's random numbers.
        timeout: seconds after which no new trial starts.
        storage: where Optuna keeps the study: an URL such as "sqlite:///study.db" or "postgresql://user@host/name", a
            journal file such as "study.journal", or an Optuna storage; None: memory.
        study_name: of the study in the storage.
        resume: continue the study of that name. It must have the same model, samples, metric and space.
        space: the settings to vary, by dotted names such as "baseline.sigma": a list of names, or a dict from names to
            specs or to lists of choices. The name of a setting that is an object also stands for that object's
            settings. None: every tunable setting. "all": also every setting that is an object, such as the baseline
            and the feature mask, with the settings of these objects.
        postprocess: a postprocessor (True for the usual one) whose pooling and normalization are searched too.
        direction: checked against the metric's own, where given.
        cautious: keep the default settings (of the best explainer, where there are several) unless the gain per sample
            is beyond noise: the best of many trials on few samples is often the luckiest one. For one objective.
        progress: show a progress bar.

    Returns:
        The best explainer with its value, all trials, and the settings that had no effect.

    Raises:
        InvalidInputError, InvalidTypeError, UnknownNameError: for arguments that cannot be right.
        UnboundError: for an explainer without a model.
        TuningError: when no trial gave a number; the message holds the first reason.

    >>> import torch
    >>> from xaikit.explainers import SmoothGrad
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> found = tune(SmoothGrad(model), "abpc", (torch.rand(5, 4), 0), n_trials=4, progress=False)
    >>> found.value >= found.default_value
    True
    """
    search = explanation_search(
        explainer,
        metric,
        data,
        relevant_region=relevant_region,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
        space=space,
        postprocess=postprocess,
        direction=direction,
    )
    n_trials = Int(ge=1).check(n_trials, "n_trials")
    timeout = None if timeout is None else Float(gt=0).check(timeout, "timeout")
    stopped = run_search(
        search,
        n_trials=n_trials,
        timeout=timeout,
        storage=storage,
        study_name=study_name,
        resume=resume,
        progress=progress,
    )
    return explanation_result(search, stopped, cautious=cautious)


def explanation_search(  # noqa: PLR0913
    explainer: Any,
    metric: Any,
    data: Any,
    *,
    relevant_region: Any = None,
    sampler: str = "tpe",
    pruner: Any = None,
    seed: int = 0,
    space: SpaceArgument = None,
    postprocess: Any = None,
    direction: str | None = None,
) -> Search:
    """The search that `tune` runs, not yet begun; the arguments are those of `tune`."""
    if getattr(explainer, "REGISTRY", None) is MITIGATORS:
        raise InvalidTypeError(
            f"tune searches explainers; for a {type(explainer).__name__} call "
            "tune_mitigator(mitigator, model, data, measure)"
        )
    several = isinstance(explainer, Sequence) and not isinstance(explainer, str)
    explainers = _explainers(explainer if several else [explainer])
    goals = as_goals(metric, direction)
    seed = Int(ge=0).check(seed, "seed")
    selection = SpaceSelection(space)
    parts = [part_of_several(explainers, selection, "explainer") if several else part_of_one(explainers[0], selection)]
    after = None
    if postprocess is not None and postprocess is not False:
        after = POSTPROCESSORS.create("postprocessor" if postprocess is True else postprocess)
        parts.append(part_of_one(after, selection, "postprocess"))
    options: dict[str, Any] = {"model": explainers[0].model, "rows": None, "targets": True, "what": "relevant_region"}
    batches = [batch.to(explainers[0].device) for batch in read_batches(data, relevant_region, **options)]
    for goal in goals:
        goal.check_masks(batches)
    if any(goal.needs_masks for goal in goals):
        batches = samples_with_region(batches)
    if pruner is not None and len(batches) == 1:
        raise InvalidInputError(
            f"pruner={pruner!r} ends a trial between batches, and the data is a single one; pass a loader or a list"
        )
    unbound = [repr(e.set_kwargs(model=None)) for e in explainers]
    fingerprint = {
        "explainer": unbound if several else unbound[0],
        **({} if after is None else {"postprocess": repr(after)}),
        "metric": [goal.fingerprint() for goal in goals] if len(goals) > 1 else goals[0].fingerprint(),
        "seed": seed,
        "data": fingerprint_of_data(batches),
        "model": fingerprint_of_model(explainers[0].model),  # type: ignore[arg-type]
    }
    return Search(
        make_space(parts, selection),
        goals,
        ExplanationMeasure(goals, batches, seed),
        fingerprint,
        seed,
        sampler,
        pruner,
    )


def explanation_result(search: Search, stopped: Stopped, *, cautious: bool = True) -> TuneResult[Any]:
    """The result of a search over explainers; `cautious` as for `tune`.

    Raises:
        TuningError: when no trial gave a number.
    """
    result = assemble(search, stopped)
    goal = search.goals[0]
    best, default = best_row(result.trials, goal)["settings"], search.space.start
    if search.space.parts[0].chosen:
        # The default of the explainer that was found best, not of the one that stands first.
        (choice,) = search.space.parts[0].dims
        default = search.space.walk(lambda dim: best[dim.name] if dim is choice else dim.start)
    before = row_at(result.trials, default)
    if before is None:
        return result
    interval = gain_interval(goal, search.artifact_at(best)[0], search.artifact_at(default)[0])
    result = dataclasses.replace(result, gain_interval=interval)
    if not cautious or len(search.goals) > 1 or interval is None or best == default:
        return result
    if interval.low > ROUNDING * abs(before["value"]):
        return result
    tuned, *after = search.space.make(default)
    front = (FrontPoint(tuned, {goal.name: before["value"]}, before["trial"], *after),)
    return dataclasses.replace(
        result,
        best=tuned,
        postprocess=after[0] if after else None,
        value=before["value"],
        front=front,
        kept_default=True,
    )


def _explainers(values: Sequence[Any]) -> list[Explainer]:
    """The explainers, all bound: names take the model of the first that has one."""
    if not values:
        raise InvalidInputError("tune needs an explainer, got an empty list")
    explainers = [value if isinstance(value, Explainer) else as_explainer(value) for value in values]
    model = next((e.model for e in explainers if e.model is not None), None)
    if model is None:
        example = f"{type(explainers[0]).__name__}(model)"
        raise UnboundError(f"{explainers[0]!r} has no model yet; pass an explainer with its model, such as {example}")
    bound = [e if e.model is not None else e.bind(model) for e in explainers]
    if any(e.model is not model for e in bound):
        raise InvalidInputError("the explainers to choose from must explain the same model")
    return bound

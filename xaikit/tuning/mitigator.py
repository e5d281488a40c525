"""tune_mitigator: a search over a mitigator's weight and explanation, by a measure on validation data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.data import Dataset

from xaikit.core import EXPLAINERS, MITIGATORS, Categorical, Float, Int
from xaikit.core.arrays import is_array
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.fingerprints import fingerprint_of_model
from xaikit.core.model_copy import trainable_copy
from xaikit.core.model_device import model_device
from xaikit.core.model_state import isolated
from xaikit.mitigation.evaluation import accuracies
from xaikit.tuning.assemble import assemble, best_row
from xaikit.tuning.goals import Goal, check_direction
from xaikit.tuning.result import TuneResult
from xaikit.tuning.search import IntermediateReport, Measurement, Search, run_search
from xaikit.tuning.space_selection import ALL, SpaceArgument, SpaceSelection, make_space, part_of_one

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from xaikit.mitigation import Mitigator

    # The mitigator's own class; a name gives some Mitigator.
    M = TypeVar("M", bound=Mitigator, default=Mitigator)

Measure = Callable[[nn.Module], float]
DECISIVE = ("form", "part", "target", "output")  # settings that say what is penalised
ALIKE = ("predicted", "probability")  # hardly other than "label" and "log_probability": not worth a trial each


def tune_mitigator(  # noqa: PLR0913
    mitigator: M | str,
    model: nn.Module,
    data: Any,
    measure: Measure | str,
    *,
    validation: Any = None,
    direction: str = "maximize",
    shortcut_masks: Any = None,
    relevant_region: Any = None,
    explainers: Sequence[Any] | None = None,
    space: SpaceArgument = None,
    n_trials: int = 20,
    sampler: str = "tpe",
    seed: int = 0,
    timeout: float | None = None,
    storage: Any = None,
    study_name: str | None = None,
    resume: bool = False,
    progress: bool = True,
) -> TuneResult[M]:
    """Search a mitigator's weight, what it penalises, its explanation and the explanation's settings, all at once.

    Every trial trains a fresh copy of the model; `TuneResult.model` is the best one. The given model stays as it is.

    Args:
        mitigator: trial 0; where its random_state is None it becomes `seed`, so that trials can be compared.
        model: what every trial starts from.
        data: (inputs, labels) or (inputs, labels, masks), as tensors, numpy arrays, lists or pandas objects; a loader
            of such batches; or a data set of such samples.
        measure: a function of the trained model, in evaluation mode, to a number; or "accuracy" or
            "worst_group_accuracy" on `validation`. Choose it on data that is not trained on, nor tested on in the end.
        validation: (inputs, labels), or a loader of such batches; with groups (N,) as a third the worst group is the
            value of `groups` whose samples have the lowest accuracy; of a loader it is the worst class. A mitigator
            with `patience` stops early on them, too.
        direction: which way the measure is better, "maximize" or "minimize".
        shortcut_masks: as for `Mitigator.fit`: where the explanation must not look, for data without masks.
        relevant_region: as for `Mitigator.fit` of `HINT` and `AttributionPrior`, in place of `shortcut_masks`.
        explainers: explanations to choose from, by name, spec, class or object; None: the mitigator's own.
        space: what to vary, as for `tune`; None: the weight, those of `form`, `part`, `target` and `output` that the
            mitigator has, the choice of `explainers`, and their settings.
        n_trials: trials to make, each a training.
        sampler: as for `tune`.
        seed: of the sampler, and of every training where the mitigator has no random_state.
        timeout: seconds after which no new trial starts.
        storage: as for `tune`.
        study_name: as for `tune`.
        resume: as for `tune`.
        progress: show a progress bar.

    Returns:
        The best mitigator with its value, the model that it trained, and all trials.

    Raises:
        InvalidInputError, InvalidTypeError, UnknownNameError: for arguments that cannot be right.
        TuningError: when no trial gave a number; the message holds the first reason.

    >>> from xaikit.mitigation import RRR
    >>> x, y, mask = torch.rand(16, 4), torch.arange(16) % 2, torch.tensor([1.0, 0, 0, 0])
    >>> model = nn.Linear(4, 2)
    >>> found = tune_mitigator(
    ...     RRR(n_epochs=1), model, (x, y, mask), "accuracy", validation=(x, y), n_trials=3, progress=False
    ... )
    >>> found.best.lambda_rrr > 0, found.model is not model
    (True, True)
    """
    start = MITIGATORS.create(mitigator)
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"tune_mitigator takes a torch.nn.Module second, got {type(model).__name__}")
    seed, n_trials = Int(ge=0).check(seed, "seed"), Int(ge=1).check(n_trials, "n_trials")
    timeout = None if timeout is None else Float(gt=0).check(timeout, "timeout")
    if start.random_state is None:
        start = start.set_kwargs(random_state=seed)
    selection = SpaceSelection(_space(start, explainers, space))
    goal = Goal(measure if isinstance(measure, str) else _name(measure), check_direction(direction))
    training = Training(
        model,
        data,
        _measure(measure, validation, start.head),
        {"shortcut_masks": shortcut_masks, "relevant_region": relevant_region, **_stopping(start, validation)},
    )
    fingerprint = {
        "mitigator": repr(start),
        "measure": goal.fingerprint(),
        "model": fingerprint_of_model(model),
    }
    search = Search(
        make_space([part_of_one(start, selection)], selection), (goal,), training, fingerprint, seed, sampler
    )
    stopped = run_search(
        search,
        n_trials=n_trials,
        timeout=timeout,
        storage=storage,
        study_name=study_name,
        resume=resume,
        progress=progress,
    )
    result = assemble(search, stopped)
    return dataclasses.replace(result, model=search.artifact_at(best_row(result.trials, goal)["settings"]))


@dataclasses.dataclass(frozen=True)
class Training:
    """Trains a copy of the model with a mitigator and measures it.

    Attributes:
        model: what every trial starts from.
        data: what it is trained on.
        measure: of a trained model.
        options: further arguments of `Mitigator.fit`: masks; `validation` and `groups` where it stops early.
    """

    model: nn.Module
    data: Any
    measure: Measure
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, candidate: tuple[Any, ...], report: IntermediateReport | None = None) -> Measurement:  # noqa: ARG002
        """The measure of the trained copy, and the copy."""
        trained = trainable_copy(self.model)
        candidate[0].fit(trained, self.data, **self.options, progress=False)
        device = model_device(trained)
        with isolated(trained, device, 0), torch.no_grad():
            value = self.measure(trained)
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise InvalidTypeError(f"the measure must give a number, got {value!r}") from None
        return Measurement([number], trained)


MEASURES = ("accuracy", "worst_group_accuracy")


def _measure(measure: Any, validation: Any, head: str | int) -> Measure:
    """The user's function, or a function that gives the accuracy on the validation data (in the worst group)."""
    if callable(measure):
        return measure
    if not isinstance(measure, str):
        raise InvalidTypeError(f"measure must be a function of the model or one of {', '.join(MEASURES)}")
    if measure not in MEASURES:
        raise UnknownNameError(f"unknown measure {measure!r}{near_names(measure, MEASURES)}")
    of_worst_group = measure == "worst_group_accuracy"
    form = "(inputs, labels, groups)" if of_worst_group else "(inputs, labels)"
    in_memory = isinstance(validation, (tuple, list))
    if (in_memory and len(validation) < 2 + of_worst_group) or not (in_memory or _is_loader(validation)):
        raise InvalidInputError(f"measure={measure!r} needs validation={form}, or a loader of batches (inputs, labels)")
    data, groups = _validation(validation)

    def accuracy(model: nn.Module) -> float:
        by_group = accuracies(model, data, groups, head)
        return min(value for name, value in by_group.items() if name is not None) if of_worst_group else by_group[None]

    return accuracy


def _is_loader(value: Any) -> bool:
    return isinstance(value, (Iterable, Dataset)) and not isinstance(value, (str, Mapping)) and not is_array(value)


def _validation(validation: Any) -> tuple[Any, Any]:
    """The validation data, and the group of each of its samples; None: the groups are the classes."""
    if not isinstance(validation, (tuple, list)):
        return validation, None
    inputs, labels, *further = validation
    if not further:
        return (inputs, labels), None
    groups = further[0].tolist() if hasattr(further[0], "tolist") else list(further[0])
    if len(groups) != len(labels):
        raise InvalidInputError(f"groups must name one for each of the {len(labels)} samples, got {len(groups)}")
    return (inputs, labels), groups


def _stopping(mitigator: Mitigator, validation: Any) -> dict[str, Any]:
    """The arguments of `Mitigator.fit` for early stopping, where the mitigator stops early."""
    if mitigator.patience is None or validation is None:
        return {}
    data, groups = _validation(validation)
    return {"validation": data, "groups": groups}


def _space(mitigator: Any, explainers: Sequence[Any] | None, space: SpaceArgument) -> SpaceArgument:
    """The weight, what is penalised, the choice of explanation and its settings, unless the user says otherwise.

    What has no effect is left out: the explanation of a mitigator that uses none, the part of one that splits nothing.
    """
    if space is not None and explainers is not None:
        if space == ALL or "explainer" in space:
            raise InvalidInputError("the explanations to choose from stand in explainers= and in space; leave one out")
        space = dict(space) if isinstance(space, dict) else dict.fromkeys(space)
        return {**space, "explainer": list(explainers)}
    if space is not None:
        return space
    chosen: dict[str, Any] = {mitigator.WEIGHT: None}
    explained = [EXPLAINERS.create(e) for e in explainers] if explainers else [mitigator.explainer]
    splits = any(hasattr(explainer, "decompose") for explainer in explained)
    for name in DECISIVE:
        spec = mitigator.get_tunables().get(name)
        if isinstance(spec, Categorical) and (name != "part" or splits):
            chosen[name] = [c for c in spec.choices if c not in ALIKE or c == getattr(mitigator, name)]
    if explainers:
        chosen["explainer"] = list(explainers)
    elif mitigator.USES_EXPLAINER:
        chosen |= {f"explainer.{name}": None for name in mitigator.explainer.get_tunables()}
    return chosen


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)

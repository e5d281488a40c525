"""`recommend`: which explainers suit a model, and why."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from xaikit.core import EXPLAINERS, METRICS, MODALITIES, Explainer, Float, Int, structure
from xaikit.core.arrays import is_array
from xaikit.core.batch import dataset_loader, holds_labels, is_batch, is_whole_batch_target, parts_by_name
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.inputs import read_inputs
from xaikit.core.labels import read_classes, read_labels
from xaikit.core.model_device import model_device
from xaikit.core.pandas_import import import_pandas
from xaikit.core.results import Result
from xaikit.core.targets import target_value
from xaikit.metrics import Metric
from xaikit.modality import Modality, as_modality
from xaikit.recommendation.candidates import Candidate, candidate, explainer_names, missing_rules
from xaikit.recommendation.measure import measured
from xaikit.recommendation.profile import ModelProfile, first_names, one_pass, profile_model

SHOWN = 10  # candidates in a printed recommendation
WIDTH = 120  # letters of their reasons


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Recommendation(Result):
    """Explainers for a model, the best first.

    Attributes:
        profile: what the model is made of.
        modality: of its inputs.
        candidates: every method that was considered: those measured, then those that suit, then those that do not.
        metric: the metric that they were measured by, None where no data was given.
        seed: of the explainers and the metric.
    """

    profile: ModelProfile
    modality: Modality
    candidates: tuple[Candidate, ...]
    metric: str | None = None
    seed: int = 0

    @property
    def best(self) -> Explainer:
        """The first explainer, ready to use.

        Raises:
            InvalidInputError: when no method suits the model.
        """
        if not self.candidates or not self.candidates[0].suitable:
            raise InvalidInputError("no explainer suits this model; print the recommendation for the reasons")
        return self.candidates[0].explainer

    def to_json(self) -> str:
        """The content of `to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)

    def to_pandas(self) -> Any:
        """The candidates as a DataFrame, a row each, without their explainers.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas(".candidates")
        names = ["name", "points", "reasons", "passes", "against", "value", "low", "high", "seconds", "tied"]
        return pd.DataFrame([{n: getattr(item, n) for n in names} for item in self.candidates], columns=names)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any], model: nn.Module | None = None) -> Self:
        """The recommendation that `to_dict` wrote.

        Args:
            state: what `to_dict` returned.
            model: what the explainers are bound to; None leaves them without one.

        Raises:
            InvalidInputError: for another kind of result, one of a newer xaikit, or a field that is missing or wrong.
            UnknownNameError: for an explainer that is not registered here, such as one of a plugin.
        """
        return cls._from_state(state, lambda decoded: cls._decode(decoded, model))

    @classmethod
    def load(cls, path: str | Path, model: nn.Module | None = None) -> Self:
        """The recommendation that `save` wrote.

        Args:
            path: the file.
            model: what the explainers are bound to; None leaves them without one.

        Raises:
            InvalidInputError: for a damaged file, another kind of result, or one that a newer xaikit wrote.
            OSError: where there is no such file.
        """
        return cls._load(path, lambda state: cls._decode(state, model))

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "candidates": [item._state() for item in self.candidates]}  # noqa: SLF001

    @classmethod
    def _decode(cls, state: Mapping[str, Any], model: nn.Module | None = None) -> Self:
        return cls(
            ModelProfile._decode(state["profile"]),  # noqa: SLF001
            MODALITIES.create(state["modality"]),
            tuple(Candidate._decode(item, model) for item in state["candidates"]),  # noqa: SLF001
            state["metric"],
            state.get("seed", 0),
        )

    def __repr__(self) -> str:
        suited = [item for item in self.candidates if item.suitable]
        heading = ("points", self.metric, "s/sample") if self.metric else ("points", "passes")
        rows: list[tuple[str, ...]] = [("", "explainer", *heading, "why")]
        rows += [(str(place), *self._row(item)) for place, item in enumerate(suited[:SHOWN], 1)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
        lines = [f"Recommendation for {' and '.join(part.NAME for part in self.modality.parts)}"]
        lines += str(self.profile).splitlines()
        lines += ["  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows]
        if len(suited) > SHOWN:
            lines.append(f"... and {first_names([item.name for item in suited[SHOWN:]], 20)}")
        lines += self._order(suited)
        against: dict[str, list[str]] = {}
        for item in self.candidates:
            if item.against is not None:
                against.setdefault(item.against, []).append(item.name)
        return "\n".join([*lines, *(f"not {first_names(names, 8)}: {why}" for why, names in against.items())])

    def _order(self, suited: list[Candidate]) -> list[str]:
        """How the candidates are ranked, and where the measurement overrules the points."""
        points = "points: what each method declares, less the logarithm of its cost"
        if self.metric is None:
            return [f"{points}; nothing was measured, which needs samples"] if suited else []
        tied = sum(item.tied for item in suited)
        lines = [f"{points}; ~: {tied} that noise does not tell apart, by points, then by cost"] if tied > 1 else []
        measured = [item for item in suited if item.value is not None]
        declared = min(measured, key=_by_points, default=None)
        if declared is not None and not declared.tied:
            lines.append(
                f"by points alone {declared.name} would be first ({declared.points:.1f}); on these samples "
                f"{suited[0].name} is better by more than noise"
            )
        return lines

    def _row(self, item: Candidate) -> tuple[str, ...]:
        why = "; ".join(item.reasons)
        why = why if len(why) <= WIDTH else f"{why[: WIDTH - 3]}..."
        if self.metric is None:
            return item.name, f"{item.points:.1f}", str(item.passes), why
        if item.interval is None:
            return item.name, f"{item.points:.1f}", "-", "-", why
        value = str(item.interval).partition(" (")[0]
        return item.name, f"{item.points:.1f}", f"{value}{' ~' if item.tied else ''}", f"{item.seconds:.2g}", why


def recommend(  # noqa: PLR0913
    model: nn.Module,
    modality: Any = None,
    data: Any = None,
    differentiable: bool | None = None,
    *,
    explainers: Any = None,
    metric: Any = "abpc",
    n_samples: int = 8,
    seconds: float = 60.0,
    seed: int = 0,
    **view: Any,
) -> Recommendation:
    """Explainers that suit a model, ranked, with reasons.

    Without data they are ranked by points, for the model's modules and what the classes of the methods declare, less
    their cost. With data, the model runs on a few samples, which shows the operations between modules, and every method
    that suits is measured. Those that the samples do not tell apart from the best, within noise, stand first, by points
    and then by cost; so both ways give one order unless the measurement speaks against it, which is said.

    Args:
        model: the model.
        modality: "image", "text", "time_series", "tabular", a `Modality`, or a tuple of them for several inputs; None
            chooses it by the shape of the data.
        data: samples: a pair (inputs, targets) as for `Explainer.attribute`; inputs alone, for which the predicted
            class is explained; a loader or a data set, of which the first samples are taken. Tensors, numpy arrays,
            lists and pandas objects are read alike.
        differentiable: True keeps only methods whose attribution can be part of a loss.
        explainers: names of those to consider; None takes all that are registered.
        metric: the metric that ranks them, by its mean over the samples.
        n_samples: number of samples that are used, from the first one on.
        seconds: time limit of the measuring; a method that would end later is left out, with a reason that says so.
        seed: of the explainers and the metric.
        view: settings of every explainer: head, layer, forward_arg_extractor, additional_forward_arg_extractor.

    Returns:
        The profile and the candidates; `best` is the first explainer, ready to use.

    Raises:
        InvalidInputError, InvalidTypeError: for a model, data or a modality that cannot be right.
        UnknownNameError: for a name that is not registered.

    >>> from torch import nn
    >>> recommend(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), "tabular", differentiable=True).best.NAME
    'lrp_uniform_epsilon'
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"recommend takes a torch.nn.Module as its model, got {model!r}")
    if not isinstance(differentiable, (bool, type(None))):
        raise InvalidTypeError(f"differentiable must be True, False or None, got {differentiable!r}")
    Int(ge=1).check(n_samples, "n_samples")
    Float(gt=0).check(seconds, "seconds")
    seed = Int(ge=0).check(seed, "seed")
    for name in view:
        if name not in Explainer.SETTINGS:
            raise InvalidTypeError(f"recommend has no argument {name!r}")
    inputs, targets = _samples(data, n_samples, model)
    kind = _modality(modality, inputs)
    chosen = {name: EXPLAINERS.get(name) for name in explainer_names(explainers)}
    without_layer = {n: v for n, v in view.items() if n != "layer"}
    profile = profile_model(model, inputs, **without_layer)
    if "layer" not in view and _embeds(kind, inputs) and profile.embedding is not None:
        view = {**view, "layer": profile.embedding}
    ready = {name: kind.prepare(cls).set_kwargs(model=model, **view) for name, cls in chosen.items()}
    missing = {} if inputs is None else missing_rules(ready, inputs)
    profile = dataclasses.replace(profile, without_rule=missing)
    candidates = [
        candidate(explainer, model, profile, missing.get(name, ()), differentiable=bool(differentiable))
        for name, explainer in ready.items()
    ]
    candidates.sort(key=lambda c: (not c.suitable, *_by_points(c)))
    if inputs is None:
        return Recommendation(profile, kind, tuple(candidates), seed=seed)
    measure: Metric = kind.prepare(METRICS.create(metric))
    output, forward = one_pass(model, inputs, **without_layer)
    targets = _targets(output, targets)
    candidates = measured(candidates, measure, inputs, targets, seconds=seconds, forward=forward, seed=seed)
    candidates.sort(key=partial(_place, sign=-1 if measure.DIRECTION == "maximize" else 1))
    return Recommendation(profile, kind, tuple(candidates), measure.NAME, seed)


def _by_points(item: Candidate) -> tuple[Any, ...]:
    """Where a candidate stands before anything is measured: by points, then by cost."""
    return -item.points, item.passes, item.name


def _place(item: Candidate, sign: int) -> tuple[Any, ...]:
    """Where a measured candidate stands: those that noise does not tell apart from the best by points, then by cost."""
    tie = (-item.points, item.seconds) if item.tied else (math.inf, math.inf)
    return not item.suitable, not item.tied, *tie, math.inf if item.value is None else sign * item.value, item.name


def _samples(data: Any, n: int, model: nn.Module) -> tuple[Any, Any]:
    """The first samples of the data on the model's device, and their targets."""
    if data is None:
        return None, None
    if isinstance(data, Dataset):
        data = dataset_loader(data, n)
    data = parts_by_name(data) if holds_labels(data) else data
    if isinstance(data, Iterable) and not isinstance(data, (tuple, list, Mapping, str)) and not is_array(data):
        first = next(iter(data), ())  # a loader: its first batch
        first = parts_by_name(first) if holds_labels(first) else first
        inputs, targets = first[:2] if isinstance(first, (tuple, list)) and len(first) in (2, 3) else (first, None)
    else:
        pair = isinstance(data, (tuple, list)) and len(data) == 2 and is_batch(data) and not _both_inputs(data, model)
        inputs, targets = data if pair else (data, None)
    tensors, rebuild = structure.flatten(read_inputs(inputs, model, what="data"), "data")
    count = structure.check_batch(tensors, "data")
    targets = targets if (target := target_value(targets)) is None else target
    if targets is not None and not is_whole_batch_target(targets) and not isinstance(targets, int):
        targets = read_labels(targets, count, what="targets")[:n]
    device = model_device(model)
    return rebuild(tuple(t[:n].to(device) for t in tensors)), targets


def _both_inputs(data: Any, model: nn.Module) -> bool:
    """Whether a pair is two inputs rather than inputs and targets.

    It is two inputs if the second holds features as well, and the model's forward takes two arguments. Rows that look
    one-hot are features only if the model needs a second argument.
    """
    first, second = data
    if not (is_array(first) and is_array(second)) or np.ndim(second) < 2 or np.shape(second)[1] < 2:
        return False
    required, possible = _argument_counts(model)
    values = second if isinstance(second, Tensor) else torch.from_numpy(np.asarray(second))
    one_hot = values.ndim == 2 and bool(((values == 0) | (values == 1)).all()) and bool((values.sum(1) == 1).all())
    return possible > 1 and (required > 1 or not one_hot)


def _argument_counts(model: nn.Module) -> tuple[int, float]:
    """How many positional arguments the model's forward needs, and how many it accepts."""
    parameters = inspect.signature(model.forward).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 1, math.inf
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return sum(p.default is p.empty for p in positional), len(positional)


def _modality(modality: Any, inputs: Any) -> Modality:
    if modality is not None:
        return as_modality(modality) if inputs is None else as_modality(modality, len(structure.flatten(inputs)[0]))
    if inputs is None:
        raise InvalidInputError("recommend needs a modality ('image', 'text', 'time_series', 'tabular') or data")
    return Modality.of(inputs)


def _embeds(kind: Modality, inputs: Any) -> bool:
    """Whether the inputs are token ids, which only have attributions at their embedding."""
    if inputs is None:
        return any(part.NAME == "text" for part in kind.parts)
    return not all(t.is_floating_point() for t in structure.flatten(inputs)[0])


def _targets(output: Tensor, targets: Any) -> Any:
    """The targets; without any, the predicted classes of a model with several outputs."""
    if isinstance(targets, Tensor) and output.ndim == 2 and output.shape[1] > 1:
        return read_classes(targets, len(targets), what="targets", n_classes=output.shape[1])
    if targets is not None or output[0].numel() == 1:
        return targets
    if output.ndim != 2:
        raise InvalidInputError(
            f"the model returns {tuple(output.shape)}; pass data=(inputs, targets) with a function of the output"
        )
    return output.argmax(1)

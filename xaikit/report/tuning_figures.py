"""Figures of a search: its history, what mattered, the Pareto front. Drawn by Optuna's matplotlib backend."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.tuning import TuneResult
from xaikit.tuning.replay import as_study

if TYPE_CHECKING:
    import optuna

WIDTH, HEIGHT = 8.0, 4.5  # inches


def plot(result: TuneResult[Any], kind: str = "history") -> Figure:
    """The figure of that kind: "history", "importance" or "front".

    Raises:
        InvalidTypeError: for anything but a result of `tune` or `tune_mitigator`.
        UnknownNameError: for another kind.
        InvalidInputError: where there is nothing of that kind to draw.
    """
    if not isinstance(result, TuneResult):
        raise InvalidTypeError(f"plot takes the TuneResult of a search, got {type(result).__name__}")
    if kind not in KINDS:
        raise UnknownNameError(f"unknown figure {kind!r}{near_names(str(kind), KINDS)}")
    return KINDS[kind](result)


def history(result: TuneResult[Any]) -> Figure:
    """The first objective, trial by trial, and the best so far."""

    def draw(backend: Any, study: optuna.Study) -> Any:
        axes = backend.plot_optimization_history(study, target_name=result.goals[0].name)
        if math.isfinite(result.default_value):
            axes.axhline(result.default_value, color="grey", linestyle=":", label="default")
        axes.set_xlabel("distinct settings, in the order in which they were tried")
        axes.legend()
        return axes

    return _drawn(as_study(result, first_only=True), draw, "History of the search")


def importance(result: TuneResult[Any]) -> Figure:
    """How much of the first objective's variation each setting explains.

    Raises:
        InvalidInputError: when fewer than two distinct values were found, which explain nothing.
    """
    values = {row["value"] for row in result.trials if row["state"] == "complete"}
    if len(values) < 2:
        raise InvalidInputError(
            f"what matters shows only where the objective varies; the {len(result.trials)} trials gave "
            f"{len(values)} value{'s' if len(values) != 1 else ''}"
        )

    def draw(backend: Any, study: optuna.Study) -> Any:
        axes = backend.plot_param_importances(study, target_name=result.goals[0].name)
        axes.set_ylabel("setting")
        axes.set_xlabel("importance, as a share of the whole")
        return axes

    return _drawn(as_study(result, first_only=True), draw, "What mattered")


def front(result: TuneResult[Any]) -> Figure:
    """Two or three objectives against each other, the Pareto front in red.

    Raises:
        InvalidInputError: for another number of objectives.
    """
    if len(result.goals) not in (2, 3):
        raise InvalidInputError(
            f"a Pareto front is drawn for two or three objectives, this search had {len(result.goals)}"
        )

    def draw(backend: Any, study: optuna.Study) -> Any:
        return backend.plot_pareto_front(study, target_names=[goal.name for goal in result.goals])

    return _drawn(as_study(result), draw, "Pareto front")


KINDS: dict[str, Callable[[TuneResult[Any]], Figure]] = {"history": history, "importance": importance, "front": front}


def _drawn(study: optuna.Study, draw: Callable[[Any, optuna.Study], Any], title: str) -> Figure:
    """Optuna's figure, taken out of pyplot, which would keep it open; its style does not outlive it."""
    from matplotlib import pyplot as plt
    from optuna.visualization import matplotlib as backend

    with warnings.catch_warnings(), mpl.rc_context():
        warnings.simplefilter("ignore")  # that its backend is experimental, that few trials say little
        axes = draw(backend, study)
        figure: Figure = axes.figure
        axes.set_title("", loc="left")
        axes.set_title(title)
        figure.set_size_inches(WIDTH, HEIGHT)
        figure.tight_layout()
        plt.close(figure)
    return figure

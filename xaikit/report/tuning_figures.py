"""Figures of a search: its history, what mattered, the Pareto front."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.report.plain_text import PlainFigure
from xaikit.tuning import Goal, TuneResult
from xaikit.tuning.importance import importances

TRIED, BEST, GREY = "#4477aa", "#b2182b", "#777777"


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
    """The value of the first objective in each trial, and the best value so far."""
    goal = result.goals[0]
    values = [row["value"] for row in _distinct_trials(result)]
    better = max if goal.direction == "maximize" else min
    figure = PlainFigure(figsize=(7.5, 3.6), layout="constrained")
    axes = _styled(figure.subplots())
    axes.scatter(range(len(values)), values, s=22, color=TRIED, label="one trial", zorder=3)
    axes.step(
        range(len(values)), list(itertools.accumulate(values, better)), where="post", color=BEST, label="best so far"
    )
    if math.isfinite(result.default_value):
        axes.axhline(result.default_value, color=GREY, linestyle=":", label="default")
    axes.set_title("History of the search", loc="left", fontsize=10)
    axes.set_xlabel("distinct settings, in the order in which they were tried", fontsize=9)
    axes.set_ylabel(_axis_label(goal), fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower right", ncols=3, frameon=False, fontsize=8)
    return figure


def importance(result: TuneResult[Any]) -> Figure:
    """How much of the first objective's variation each setting explains.

    Raises:
        InvalidInputError: when fewer than two distinct values were found, which explain nothing.
    """
    values = {row["value"] for row in result.trials if row["state"] == "complete"}
    if len(values) < 2:
        raise InvalidInputError(
            f"importance needs an objective that varies; the {len(result.trials)} trials gave "
            f"{len(values)} value{'s' if len(values) != 1 else ''}"
        )
    shares = importances(result)
    figure = PlainFigure(figsize=(7.5, 0.9 + 0.32 * len(shares)), layout="constrained")
    axes = _styled(figure.subplots())
    bars = axes.barh(list(shares), list(shares.values()), height=0.7, color=TRIED)
    axes.bar_label(bars, [f"{100 * v:.0f} %" if v >= 0.01 else "< 1 %" for v in shares.values()], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1 * max(shares.values()) or 1.0)
    axes.xaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    axes.set_title(f"What mattered for {result.goals[0].name}: share of its variation", loc="left", fontsize=10)
    return figure


def front(result: TuneResult[Any]) -> Figure:
    """Each pair of two or three objectives against each other; the trials on the Pareto front are red.

    Raises:
        InvalidInputError: for another number of objectives.
    """
    if len(result.goals) not in (2, 3):
        raise InvalidInputError(
            f"a Pareto front is drawn for two or three objectives, this search had {len(result.goals)}"
        )
    tried, best = [row["values"] for row in _distinct_trials(result)], [point.values for point in result.front]
    pairs = list(itertools.combinations(result.goals, 2))
    figure = PlainFigure(figsize=(1 + 3.4 * len(pairs), 3.8), layout="constrained")
    for axes, (across, along) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        _styled(axes)
        for points, colour, label in ((tried, TRIED, "one trial"), (best, BEST, "on the front")):
            places = [[p[goal.name] for p in points] for goal in (across, along)]
            axes.scatter(*places, s=22, color=colour, label=label, zorder=3)
        axes.set_xlabel(_axis_label(across), fontsize=9)
        axes.set_ylabel(_axis_label(along), fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(5))
    figure.axes[0].set_title("Pareto front", loc="left", fontsize=10)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), loc="outside lower right", ncols=2, frameon=False, fontsize=8
    )
    return figure


KINDS: dict[str, Callable[[TuneResult[Any]], Figure]] = {"history": history, "importance": importance, "front": front}


def _distinct_trials(result: TuneResult[Any]) -> list[dict[str, Any]]:
    """The complete trials, without those that took an earlier one's value."""
    return [row for row in result.trials if row["state"] == "complete" and row["repeats"] is None]


def _axis_label(goal: Goal) -> str:
    return f"{goal.name} ({'higher' if goal.direction == 'maximize' else 'lower'} is better)"


def _styled(axes: Axes) -> Axes:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)
    return axes

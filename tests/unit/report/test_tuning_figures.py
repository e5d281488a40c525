"""Figures of a search: what they show is what was found, also after the result was read back."""

from __future__ import annotations

import json
from typing import Annotated

import matplotlib as mpl
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

from xaikit.core import Call, Categorical, Explainer, Float, Int
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.explainers import IntegratedGradients
from xaikit.metrics import EvaluationContext, Metric
from xaikit.report.tuning_figures import plot
from xaikit.tuning import TuneResult, tune

optuna = pytest.importorskip("optuna")


class Knobs(Explainer):
    loud: Annotated[float, Float(low=0, high=1), "moves much"] = 0.9
    quiet: Annotated[int, Int(low=1, high=9, step=2), "moves little"] = 1
    word: Annotated[str, Categorical("a", "b"), "moves nothing"] = "a"

    def _attribute(self, call: Call):
        return tuple(torch.full_like(x, self.loud + 0.001 * self.quiet) for x in call.inputs)


class Low(Metric):
    DIRECTION = "minimize"

    def _evaluate(self, case: EvaluationContext):
        return case.attributions[0].mean(1)


class High(Low):
    DIRECTION = "maximize"

    def _evaluate(self, case: EvaluationContext):
        return -((case.attributions[0].mean(1) - 0.5) ** 2)


@pytest.fixture(scope="module")
def found():
    return tune(Knobs(nn.Linear(2, 1)), Low(), (torch.rand(3, 2), None), n_trials=30, progress=False)


@pytest.fixture(scope="module")
def two():
    goals = [High(), Low()]
    return tune(Knobs(nn.Linear(2, 1)), goals, (torch.rand(3, 2), None), n_trials=30, progress=False)


def test_history_shows_every_value_and_the_best_so_far(found):
    (axes,) = plot(found, "history").axes
    shown = axes.collections[0].get_offsets()[:, 1].tolist()
    values = [row["value"] for row in found.trials if row["repeats"] is None]
    assert shown == pytest.approx(values)
    best = next(line for line in axes.lines if len(line.get_ydata()) == len(values))
    assert best.get_ydata()[-1] == pytest.approx(found.value)
    assert axes.get_ylabel() == "Low (lower is better)"


def test_importance_names_the_setting_that_moves_the_objective(found):
    (axes,) = plot(found, "importance").axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    widths = dict(zip(names, (bar.get_width() for bar in axes.patches), strict=True))
    assert max(widths, key=widths.get) == "loud"
    assert set(widths) <= {"loud", "quiet", "word"}


def test_front_shows_both_objectives(two):
    (axes,) = plot(two, "front").axes
    assert [axes.get_xlabel(), axes.get_ylabel()] == ["High (higher is better)", "Low (lower is better)"]
    red = axes.collections[-1].get_offsets()
    assert len(red) == len({tuple(c.values.values()) for c in two.front})


def test_a_result_that_was_read_back_draws_the_same():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    data = (torch.rand(5, 4), 0)
    result = tune(IntegratedGradients(model), ["lerf", "morf"], data, n_trials=8, space="all", progress=False)
    back = TuneResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert back.study is None
    for kind in ("history", "importance", "front"):
        (axes,), (again,) = result.plot(kind).axes, back.plot(kind).axes
        assert [p.get_width() for p in axes.patches] == [p.get_width() for p in again.patches]
        for one, other in zip(axes.collections, again.collections, strict=True):
            assert one.get_offsets().tolist() == other.get_offsets().tolist()


def test_nothing_stays_behind(found):
    style = dict(mpl.rcParams)
    plot(found, "history")
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == style


def test_what_cannot_be_drawn(found):
    with pytest.raises(InvalidTypeError, match="plot takes the TuneResult of a search, got str"):
        plot("found")
    with pytest.raises(UnknownNameError, match="unknown figure 'pareto'"):
        plot(found, "pareto")
    with pytest.raises(InvalidInputError, match="two or three objectives, this search had 1"):
        plot(found, "front")
    flat = tune(Knobs(nn.Linear(2, 1)), Low(), (torch.rand(3, 2), None), n_trials=3, space=["word"], progress=False)
    with pytest.raises(InvalidInputError, match="importance needs an objective that varies"):
        plot(flat, "importance")

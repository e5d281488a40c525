"""Objectives: one metric, a weighted sum, several; and what ends a bad trial early."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from xaikit.core import Call, Categorical, Explainer, Float, Int
from xaikit.core.errors import InvalidInputError, InvalidTypeError, TuningError, UnknownNameError
from xaikit.explainers import SmoothGrad
from xaikit.metrics import AbPC, EvaluationContext, LeRF, Metric, MoRF
from xaikit.tuning import Goal, tune
from xaikit.tuning.goals import as_goals

optuna = pytest.importorskip("optuna")


class Dial(Explainer):
    """Attributions equal to the setting, plus each sample's first feature."""

    turn: Annotated[float, Float(low=0, high=1), "the value"] = 0.5
    word: Annotated[str, Categorical("a", "b"), "no effect"] = "a"
    ran: ClassVar[list[Any]] = []

    def _attribute(self, call: Call) -> tuple[Tensor, ...]:
        self.ran.append((self.turn, call.n))
        return tuple(torch.full_like(x, self.turn) + x[:, :1] for x in call.inputs)


class Near(Metric):
    """High near `at`."""

    DIRECTION = "maximize"
    at: Annotated[float, Float(), ""] = 0.7

    def _evaluate(self, case: EvaluationContext) -> Tensor:
        return 1 - (case.attributions[0] - case.call.inputs[0][:, :1] - self.at).abs().mean(1)


class Far(Near):
    DIRECTION = "minimize"

    def _evaluate(self, case: EvaluationContext) -> Tensor:
        return 1 - super()._evaluate(case)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(Dial, "ran", [])


MODEL = nn.Linear(3, 1)
DATA = (torch.rand(4, 3), None)
BATCHES = [(torch.rand(4, 3), None) for _ in range(5)]


def search(metric, data=DATA, explainer=None, **options):
    options = {"n_trials": 25, "progress": False, **options}
    return tune(explainer or Dial(MODEL), metric, data, **options)


def test_a_weighted_sum_counts_what_should_be_low_negatively():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x, y = torch.rand(10, 4), torch.arange(10) % 2
    found = search({"lerf": 2.0, MoRF(): 0.5}, (x, y), SmoothGrad(model), n_trials=6, cautious=False)
    parts = [m.evaluate(found.best, x, y).double().mean().item() for m in (LeRF(), MoRF())]
    assert found.value == pytest.approx(2 * parts[0] - 0.5 * parts[1], abs=1e-12)
    assert found.goals[0].direction == "maximize"
    assert found.goals[0].name == "2 lerf + 0.5 -morf"
    # LeRF - MoRF is AbPC.
    difference = search({"lerf": 1, "morf": 1}, (x, y), SmoothGrad(model), n_trials=6)
    area = search("abpc", (x, y), SmoothGrad(model), n_trials=6)
    assert [r["value"] for r in difference.trials] == pytest.approx([r["value"] for r in area.trials], abs=1e-6)
    assert Goal.from_dict(difference.goals[0].to_dict()) == difference.goals[0]


def test_a_pareto_front_is_what_nothing_beats():
    found = search([Near(at=0.2), Near(at=0.8)], n_trials=40)
    points = [tuple(row["values"].values()) for row in found.trials if row["repeats"] is None]
    expected = [p for p in points if not any(q[0] >= p[0] and q[1] >= p[1] and q != p for q in points)]
    assert sorted(tuple(c.values.values()) for c in found.front) == sorted(expected)
    assert len(found.front) > 2
    for candidate in found.front:
        assert candidate.value.turn == found.trials[candidate.trial]["settings"]["turn"]
    assert found.value == max(p[0] for p in points)
    assert found.best.turn == pytest.approx(0.2, abs=0.1)
    assert found.metric == Near(at=0.2)
    assert [goal.name for goal in found.goals] == ["Near(at=0.2)", "Near(at=0.8)"]


def test_both_directions_in_one_front():
    found = search([Near(), Far()], n_trials=20)
    assert [d.name for d in found.study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert len({tuple(c.values.values()) for c in found.front}) == 1
    assert found.front[0].values["Near"] == pytest.approx(1 - found.front[0].values["Far"], abs=1e-6)


def test_faithfulness_against_cost_in_seconds():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    explainers = [SmoothGrad(model, n_iter=200), "gradient"]
    found = search(["abpc", "seconds"], (torch.rand(10, 4), 0), explainers, n_trials=12)
    assert {goal.name: goal.direction for goal in found.goals} == {"abpc": "maximize", "seconds": "minimize"}
    # Whatever it is worth, nothing is quicker than one gradient.
    assert any(candidate.value.NAME == "gradient" for candidate in found.front)
    rows = {r["settings"]["explainer"]: r["values"]["seconds"] for r in reversed(found.trials)}
    assert rows["gradient"] < rows["smoothgrad"]


def test_a_metric_that_compares_with_masks():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x, masks = torch.rand(10, 4), torch.arange(4).expand(10, 4) < 2
    found = search("relevance_mass", (x, 0, masks), SmoothGrad(model), n_trials=4)
    again = found.metric.evaluate(found.best, x, 0, relevant_region=masks).double().mean().item()
    assert found.value == again
    with pytest.raises(InvalidInputError, match="'relevance_mass' compares with masks, and the data has none"):
        search("relevance_mass", (x, 0), SmoothGrad(model))


def test_inactive_settings_are_those_that_move_no_objective():
    assert search([Near(at=0.2), Near(at=0.8)], n_trials=20).inactive_settings == ("word",)


@pytest.mark.parametrize("pruner", ["median", "hyperband", optuna.pruners.MedianPruner(n_startup_trials=3)])
def test_a_bad_trial_ends_after_a_batch(pruner):
    found = search(Near(), BATCHES, pruner=pruner, n_trials=40)
    batches: dict[float, int] = {}
    for turn, _ in Dial.ran:
        batches[turn] = batches.get(turn, 0) + 1
    assert found.n_pruned > 0
    assert min(batches.values()) == 1
    assert batches[0.5] >= 5  # the default runs through
    assert found.trials[0]["state"] == "complete"
    pruned = [row for row in found.trials if row["state"] == "pruned"]
    assert all(row["value"] is None and row["error"] is None for row in pruned)
    # What runs through is measured on all samples.
    x = torch.cat([x for x, _ in BATCHES])
    assert found.value == pytest.approx(Near().evaluate(found.best, x).mean().item(), abs=1e-6)
    full = search(Near(), BATCHES, n_trials=40)
    assert found.value == pytest.approx(full.value, abs=0.05)
    assert len(Dial.ran) > 0


def test_a_pruned_trial_is_not_run_again():
    explainer = Dial(MODEL)
    space = {"turn": [0.5, 0.7, 0.69, 0.71, 0.0, 1.0], "word": ["a"]}
    found = search(Near(), BATCHES, explainer, pruner=optuna.pruners.MedianPruner(n_startup_trials=2), space=space)
    rows = [row for row in found.trials if row["state"] == "pruned" and row["repeats"] is not None]
    assert all(found.trials[row["repeats"]]["state"] == "pruned" for row in rows)
    assert found.stopped == "exhausted"


@pytest.mark.filterwarnings("ignore:.* is NaN or infinite")
def test_a_candidate_that_is_not_finite_stops_at_once():
    class Breaks(Dial):
        def _attribute(self, call):
            return tuple(v * (math.nan if self.turn > 0.6 else 1) for v in super()._attribute(call))

    found = search(Near(at=0.4), BATCHES, Breaks(MODEL), space=["turn"], n_trials=15)
    assert found.n_nan > 0
    bad = [turn for turn, _ in Dial.ran if turn > 0.6]
    assert len(bad) == len(set(bad))
    with pytest.raises(TuningError, match="0 failed and 3 gave NaN"):
        search([Near(), Far()], BATCHES, Breaks(MODEL, turn=0.9), space={"turn": [0.7, 0.8]}, n_trials=3)


def test_the_default_stays_where_the_gain_is_noise():
    class Noisy(Metric):
        """A metric whose best setting is random for each sample."""

        DIRECTION = "maximize"

        def _evaluate(self, case):
            generator = torch.Generator().manual_seed(int(case.explainer.turn * 1e6))
            return torch.randn(case.call.n, generator=generator)

    found = search(Noisy(), (torch.rand(20, 3), None), n_trials=10)
    assert found.kept_default
    assert found.best == Dial(MODEL)
    assert found.value == found.default_value
    assert found.gain == 0
    assert found.gain_interval.low <= 0 < found.gain_interval.high
    bold = search(Noisy(), (torch.rand(20, 3), None), n_trials=10, cautious=False)
    assert bold.value == max(row["value"] for row in bold.trials) > found.value
    sure = search(Near(), (torch.rand(20, 3), None), n_trials=10)
    assert not sure.kept_default
    assert sure.gain_interval.low > 0


def test_the_interval_is_students():
    class Weighted(Near):
        def _evaluate(self, case):
            return super()._evaluate(case) * torch.arange(case.call.n)

    from scipy.stats import ttest_rel

    data = (torch.rand(9, 3), None)
    found = search(Weighted(), data, n_trials=6)
    best, default = (Weighted().evaluate(e, data[0]).double().numpy() for e in (found.best, Dial(MODEL)))
    expected = ttest_rel(best, default).confidence_interval(0.95)
    assert (found.gain_interval.low, found.gain_interval.high) == pytest.approx((expected.low, expected.high), rel=1e-6)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"metric": []}, InvalidInputError, "needs a metric, got an empty list"),
        ({"metric": {}}, InvalidInputError, "needs a metric, got an empty dict"),
        ({"metric": ["abpc", "abpc"]}, InvalidInputError, "the same metric stands twice"),
        ({"metric": {"abpc": -1}}, InvalidInputError, "the weight of abpc must be > 0, got -1"),
        ({"metric": {"abpc": "much"}}, InvalidTypeError, "the weight of abpc must be a number"),
        ({"metric": ["abpc", "abcd"]}, UnknownNameError, "unknown metric 'abcd'"),
        (
            {"direction": "minimize"},
            InvalidInputError,
            "against Near, which is better when higher; leave direction out",
        ),
        ({"direction": "up"}, InvalidInputError, "direction must be 'maximize' or 'minimize', got 'up'"),
        (
            {"metric": [Near(), Far()], "pruner": "median", "data": BATCHES},
            InvalidInputError,
            "Optuna prunes no multi-objective study",
        ),
        ({"pruner": "median"}, InvalidInputError, "the data is a single one; pass a loader or a list"),
        ({"pruner": "medien", "data": BATCHES}, UnknownNameError, "unknown pruner 'medien'; did you mean 'median'"),
        ({"pruner": 3, "data": BATCHES}, InvalidTypeError, "pruner must be one of median, hyperband"),
        ({"explainer": []}, InvalidInputError, "needs an explainer, got an empty list"),
        (
            {"explainer": [Dial(MODEL), SmoothGrad(nn.Linear(3, 1))]},
            InvalidInputError,
            "must explain the same model",
        ),
    ],
)
def test_bad_objectives(options, error, words):
    call = {"explainer": Dial(MODEL), "metric": Near(), "data": DATA, **options}
    with pytest.raises(error, match=words):
        tune(call.pop("explainer"), call.pop("metric"), call.pop("data"), progress=False, **call)


def test_the_metrics_own_direction_may_be_given():
    assert as_goals(AbPC(), "maximize")[0].direction == "maximize"
    assert Int(ge=1).check(search(Near(), direction="maximize", n_trials=2).trials[0]["trial"] + 1, "trial") == 1


def test_samples_without_a_region_are_left_out_of_the_search():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), torch.rand(4, 1, 4, 4)
    region = torch.zeros(4, 4)
    region[:2] = 1
    explainer, options = SmoothGrad(model), {"n_trials": 3, "progress": False}
    truth = tune(explainer, "relevance_mass", (x[[0, 2]], 0, region), **options)
    with pytest.warns(UserWarning, match="2 of 4 samples have no relevant region and are left out of the search"):
        found = tune(explainer, "relevance_mass", (x, 0, [region, None, region, None]), **options)
    assert (found.value, found.best) == (truth.value, truth.best)
    batches = [(x[:2], 0, [region, None]), (x[2:3], 0, region), (x[3:], 0, None)]
    with pytest.warns(UserWarning, match="2 of 4 samples have no relevant region"):
        assert tune(explainer, "relevance_mass", batches, **options).value == pytest.approx(truth.value, rel=1e-4)
    data = (x, lambda output: output[:, 0], [region, None, region, None])
    with pytest.warns(UserWarning, match="2 of 4 samples have no relevant region"):
        assert tune(explainer, "relevance_mass", data, **options).value == pytest.approx(truth.value, rel=1e-4)
    with pytest.raises(InvalidInputError, match="relevant_region is empty for every sample"):
        tune(explainer, "relevance_mass", (x, 0), relevant_region=[None] * 4, **options)

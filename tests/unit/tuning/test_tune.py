"""tune: the best settings, the counted trials, and failures that a search survives."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Annotated, Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from xaikit.core import BASELINES, EXPLAINERS, Call, Categorical, Choice, Explainer, Float, Int
from xaikit.core.errors import (
    InvalidInputError,
    InvalidTypeError,
    MissingDependencyError,
    TuningError,
    UnboundError,
    UnknownNameError,
)
from xaikit.explainers import Gradient, IntegratedGradients, SmoothGrad
from xaikit.metrics import AbPC, EvaluationContext, Metric
from xaikit.tuning import TuneResult, tune

optuna = pytest.importorskip("optuna")


class Knobs(Explainer):
    """An attribution that is a known function of the settings."""

    gain: Annotated[float, Float(low=0, high=1), "moves the value"] = 0.5
    steps: Annotated[int, Int(low=1, high=9, step=2, ge=1), "moves the value"] = 3
    idle: Annotated[float, Float(low=1e-3, high=1, log=True), "moves nothing"] = 0.1
    word: Annotated[str, Categorical("plus", "minus"), "minus lowers the value by 1"] = "plus"

    def _attribute(self, call: Call) -> tuple[Tensor, ...]:
        value = -((self.gain - 0.8) ** 2) + 0.01 * self.steps
        return tuple(torch.full_like(x, value - (self.word == "minus")) for x in call.inputs)


class MeanOf(Metric):
    """The attribution itself."""

    DIRECTION = "maximize"
    calls: ClassVar[list[Any]] = []
    raising: ClassVar[Any] = None

    def _evaluate(self, case: EvaluationContext) -> Tensor:
        type(self).calls.append((dict(case.explainer.settings()), case.seed))
        if type(self).raising is not None:
            type(self).raising(case, len(self.calls))
        return case.attributions[0].flatten(1).mean(1)


class LeastOf(MeanOf):
    DIRECTION = "minimize"


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(MeanOf, "calls", [])
    monkeypatch.setattr(MeanOf, "raising", None)


@pytest.fixture
def knobs():
    return Knobs(nn.Linear(3, 1))


DATA = (torch.rand(4, 3).double().float(), None)


def search(explainer, metric=None, data=DATA, **options):
    return tune(explainer, metric or MeanOf(), data, **{"n_trials": 20, "progress": False, **options})


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_default_is_trial_0_and_the_best_is_no_worse(knobs, sampler):
    found = search(knobs, n_trials=40, sampler=sampler)
    first = found.trials[0]
    assert first["settings"] == {"gain": 0.5, "steps": 3, "idle": 0.1, "word": "plus"}
    assert first["value"] == found.default_value == pytest.approx(-0.09 + 0.03)
    assert found.value == max(row["value"] for row in found.trials)
    assert found.gain >= 0
    assert found.best.model is knobs.model
    assert len(found.trials) == 40
    assert found.stopped == "done"
    assert found.n_nan == found.n_failed == 0


def test_tpe_finds_the_known_optimum(knobs):
    found = search(knobs, n_trials=60)
    assert found.best.gain == pytest.approx(0.8, abs=0.1)
    assert (found.best.steps, found.best.word) == (9, "plus")
    assert found.value == pytest.approx(0.09, abs=0.01)


def test_direction_is_the_metrics_own(knobs):
    up, down = search(knobs), search(knobs, LeastOf())
    assert up.value > up.default_value > down.value
    assert down.study.direction.name == "MINIMIZE"
    assert down.gain > 0


def test_value_is_that_of_a_fresh_evaluation():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.rand(10, 6), torch.arange(10) % 3
    found = search(SmoothGrad(model), AbPC(), (x, y), n_trials=8, seed=3)
    again = AbPC().evaluate(found.best, x, y, seed=3).double().mean().item()
    assert found.value == again
    assert found.default_value == AbPC().evaluate(SmoothGrad(model), x, y, seed=3).double().mean().item()


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_same_seed_same_search(knobs, sampler):
    state = torch.random.get_rng_state()
    rows = [[(r["settings"], r["value"]) for r in search(knobs, sampler=sampler, seed=s).trials] for s in (1, 1, 2)]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert torch.equal(state, torch.random.get_rng_state())
    assert {seed for _, seed in MeanOf.calls} == {1, 2}


def test_twenty_settings_twenty_values():
    """Twenty values of a setting give twenty results (pnpxai's search over LRP's epsilon gave only one)."""

    class Input(Metric):
        DIRECTION = "maximize"

        def _evaluate(self, case):
            return case.attributions[0].flatten(1).square().sum(1)

    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
    spec = {"noise_level": Float(low=0.05, high=0.95)}
    found = search(SmoothGrad(model), Input(), (torch.rand(4, 5), 0), space=spec, n_trials=20)
    assert len({row["settings"]["noise_level"] for row in found.trials}) == 20
    assert len({row["value"] for row in found.trials}) == 20
    assert found.inactive_settings == ()


def test_inactive_settings_are_named(knobs):
    assert search(knobs, n_trials=24).inactive_settings == ("idle",)
    assert search(knobs, n_trials=24, sampler="random").inactive_settings == ("idle",)
    assert search(knobs, space=["idle"]).inactive_settings == ("idle",)
    assert search(knobs, space=["gain"]).inactive_settings == ()


def test_same_settings_are_not_run_twice(knobs):
    found = search(knobs, space=["word", "steps"], n_trials=40)
    seen = [json.dumps(settings) for settings, _ in MeanOf.calls]
    assert len(seen) == len(set(seen)) <= 10
    repeated = [row for row in found.trials if row["repeats"] is not None]
    assert all(row["value"] == found.trials[row["repeats"]]["value"] for row in repeated)
    assert len(found.trials) == len(seen) + len(repeated)


def test_a_space_that_is_used_up_ends_the_search(knobs):
    found = search(knobs, space=["word"], n_trials=50)
    assert found.stopped == "exhausted"
    assert len(found.trials) < 50
    assert {row["settings"]["word"] for row in found.trials} == {"plus", "minus"}


def test_grid_covers_its_points_and_no_more(knobs):
    found = search(knobs, space=["word", "steps"], sampler="grid", n_trials=100)
    assert found.stopped == "exhausted"
    assert len(MeanOf.calls) == 10
    assert found.best.steps == 9
    partial = search(knobs, space=["word", "steps"], sampler="grid", n_trials=4)
    assert len(partial.trials) == 4
    points = search(knobs, space=["idle"], sampler="grid", n_trials=100).trials
    values = sorted({row["settings"]["idle"] for row in points})
    assert values == pytest.approx([10 ** (i / 3 - 3) for i in range(10)])


@pytest.mark.filterwarnings("ignore:.* is NaN or infinite")
def test_nan_trials_are_told_apart_and_counted(knobs):
    class Sometimes(Knobs):
        def _attribute(self, call):
            return tuple(v * (math.nan if self.gain > 0.6 else 1) for v in super()._attribute(call))

    found = search(Sometimes(knobs.model), n_trials=30)
    rows = [row for row in found.trials if row["state"] == "nan"]
    assert found.n_nan == len(rows) > 0
    assert all(row["value"] is None and row["settings"]["gain"] > 0.6 for row in rows)
    assert found.best.gain <= 0.6
    assert found.n_failed == 0

    class Never(Knobs):
        def _attribute(self, call):
            return tuple(x * math.nan for x in call.inputs)

    with pytest.raises(TuningError, match="no trial gave a number: 0 failed and 5 gave NaN"):
        search(Never(knobs.model), n_trials=5)


def test_a_trial_that_fails_keeps_its_reason(knobs):
    class Breaks(Knobs):
        def _attribute(self, call):
            if self.word == "minus":
                raise ZeroDivisionError("no minus today")
            return super()._attribute(call)

    found = search(Breaks(knobs.model), n_trials=30)
    rows = [row for row in found.trials if row["state"] == "failed"]
    assert found.n_failed == len(rows) > 0
    assert {row["error"] for row in rows} == {"ZeroDivisionError: no minus today"}
    assert found.best.word == "plus"
    with pytest.raises(TuningError, match="2 failed and 0 gave NaN; trial 0 failed with ZeroDivisionError") as caught:
        search(Breaks(knobs.model, word="minus"), space={"gain": Float(low=0, high=1)}, n_trials=2)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    default_fails = search(Breaks(knobs.model, word="minus"), n_trials=20)
    assert math.isnan(default_fails.default_value)


def test_ctrl_c_keeps_what_was_found(knobs, monkeypatch):
    def at_seventh(_case, count):
        if count == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(MeanOf, "raising", staticmethod(at_seventh))
    found = search(knobs, space=["gain"], n_trials=50)
    assert found.stopped == "interrupted"
    assert [row["state"] for row in found.trials] == ["complete"] * 6 + ["unfinished"]
    assert found.value == max(row["value"] for row in found.trials[:6])
    assert found.n_failed == 0

    def at_first(_case, _count):
        raise KeyboardInterrupt

    monkeypatch.setattr(MeanOf, "raising", staticmethod(at_first))
    with pytest.raises(KeyboardInterrupt):
        search(knobs)


def test_timeout_ends_the_search(knobs):
    found = search(knobs, n_trials=100_000, timeout=0.3)
    assert found.stopped == "out_of_time"
    assert len(found.trials) < 100_000


def test_default_outside_the_search_range_is_still_trial_0(knobs):
    start = knobs.set_kwargs(gain=7.0, steps=2, idle=50.0)
    found = search(start, n_trials=24)
    assert found.trials[0]["settings"] == {"gain": 7.0, "steps": 2, "idle": 50.0, "word": "plus"}
    assert found.default_value == pytest.approx(-((7 - 0.8) ** 2) + 0.02, rel=1e-5)
    assert found.inactive_settings == ("idle",)


def test_choice_of_a_registry(knobs):
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    space = {"baseline": Choice(BASELINES, search=True), "n_steps": Int(low=10, high=30, step=10)}
    found = search(IntegratedGradients(model), AbPC(), (torch.rand(5, 4), 0), space=space, n_trials=30)
    names = {row["settings"]["baseline"] for row in found.trials}
    assert names >= {"zeros", "mean", "uniform"}
    assert "given" not in names
    assert found.trials[0]["settings"]["baseline"] == "zeros"
    own = IntegratedGradients(model, baseline=0.25)
    found = search(own, AbPC(), (torch.rand(5, 4), 0), space=space, n_trials=4)
    assert "0.25" in found.trials[0]["settings"]["baseline"]


def test_forms_of_data(knobs):
    x = torch.rand(6, 3)
    whole = search(knobs, data=(x, None), n_trials=3)
    halves = [(x[:2], None), (x[2:], None)]
    loader = torch.utils.data.DataLoader([(row, 0) for row in x], batch_size=4, shuffle=True)
    for data in (halves, tuple(halves), iter(halves), loader, [(x, torch.zeros(6, dtype=torch.long))]):
        found = search(knobs, data=data, n_trials=3)
        assert [r["value"] for r in found.trials] == pytest.approx([r["value"] for r in whole.trials])
    for pair in ((x, [0, 0, 0, 0, 0, 0]), ({"input": x}, None), ((x,), None), (x, lambda out: out[:, 0])):
        search(knobs, data=pair, n_trials=1)


def test_loader_is_read_once(knobs):
    reads = []

    def stream():
        reads.append(1)
        yield torch.rand(2, 3), None

    search(knobs, data=stream(), n_trials=5)
    assert reads == [1]


def test_result_survives_json():
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    data = (torch.rand(5, 4), 0)
    found = search(SmoothGrad(model), "abpc:n_steps=4", data, n_trials=5)
    back = TuneResult.from_dict(json.loads(json.dumps(found.to_dict())), model)
    assert back.best == found.best
    assert back.metric == found.metric
    assert back.trials == found.trials
    assert (back.value, back.default_value, back.inactive_settings, back.stopped) == (
        found.value,
        found.default_value,
        found.inactive_settings,
        found.stopped,
    )
    assert back.metric.evaluate(back.best, *data).double().mean().item() == found.value
    assert dataclasses.replace(found, default_value=math.nan).to_dict()["default_value"] is None
    assert EXPLAINERS.create(found.to_dict()["best"]) == found.best.set_kwargs(model=None)


def test_table_as_a_frame(knobs):
    found = search(knobs, n_trials=3)
    try:
        import pandas  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match="pip install pandas"):
            found.to_pandas()
    else:
        assert list(found.to_pandas()["settings.gain"])[0] == 0.5


def test_study_goes_on_in_its_storage(knobs, tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    first = search(knobs, n_trials=5, storage=storage, study_name="a")
    ran = len(MeanOf.calls)
    again = search(knobs, n_trials=5, storage=storage, study_name="a", resume=True)
    assert len(again.trials) == 10
    assert again.trials[:5] == first.trials
    assert again.default_value == first.default_value
    assert len(MeanOf.calls) <= ran + 5 + 2  # the best and the default once more, for the interval of the gain
    with pytest.raises(InvalidInputError, match="already holds a study 'a'; pass resume=True"):
        search(knobs, storage=storage, study_name="a")
    with pytest.raises(InvalidInputError, match="study 'a' was made with metric MeanOf"):
        search(knobs, AbPC(), storage=storage, study_name="a", resume=True)
    with pytest.raises(InvalidInputError, match="needs a storage and a study_name"):
        search(knobs, resume=True)


def test_storage_that_does_not_answer_is_named_without_its_password(knobs, tmp_path):
    with pytest.raises(InvalidInputError, match="does not answer"):
        search(knobs, storage=f"sqlite:///{tmp_path}/no/such/folder/study.db")
    with pytest.raises(InvalidInputError) as caught:
        search(knobs, storage="postgresql://me:secret@localhost:1/none")
    assert "secret" not in str(caught.value)


def test_progress_bar(knobs, capsys):
    search(knobs, n_trials=3, progress=True)
    assert "3/3" in capsys.readouterr().err
    search(knobs, n_trials=3, progress=False)
    assert capsys.readouterr().err == ""


def test_optunas_log_level_stays(knobs):
    before = optuna.logging.get_verbosity()
    search(knobs, n_trials=2)
    assert optuna.logging.get_verbosity() == before


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"explainer": Knobs()}, UnboundError, r"has no model yet; pass an explainer .* such as Knobs\(model\)"),
        ({"explainer": ["gradient"]}, UnboundError, r"pass an explainer with its model, such as Gradient\(model\)"),
        ({"explainer": Gradient(nn.Linear(3, 1))}, InvalidInputError, "Gradient has no setting to tune"),
        ({"metric": "abc"}, UnknownNameError, "unknown metric 'abc'"),
        ({"sampler": "tpf"}, UnknownNameError, "unknown sampler 'tpf'; did you mean 'tpe'"),
        ({"n_trials": 0}, InvalidInputError, "n_trials must be >= 1, got 0"),
        ({"timeout": -1}, InvalidInputError, "timeout must be > 0"),
        ({"seed": -1}, InvalidInputError, "seed must be >= 0"),
        ({"space": ["gian"]}, UnknownNameError, "cannot tune 'gian'; did you mean 'gain'"),
        ({"space": "gain"}, InvalidTypeError, "space must hold names"),
        ({"space": {"gain": Float(ge=0)}}, InvalidTypeError, "a spec with a search range"),
        ({"space": []}, InvalidInputError, "the space is empty"),
        ({"data": torch.rand(2, 3)}, InvalidTypeError, r"data must be \(inputs, labels\)"),
        ({"data": []}, InvalidInputError, "data holds no batch"),
        ({"data": [torch.rand(2, 3)]}, InvalidTypeError, r"a batch must be \(inputs, labels\)"),
        ({"data": (torch.zeros(0, 3), None)}, InvalidInputError, "empty batch"),
        ({"data": torch.utils.data.TensorDataset(torch.rand(2, 3))}, InvalidTypeError, "a data set must give samples"),
    ],
)
def test_bad_input_ends_in_a_sentence(knobs, change, error, message):
    call = {"explainer": knobs, "metric": MeanOf(), "data": DATA, "progress": False, **change}
    with pytest.raises(error, match=message):
        tune(call.pop("explainer"), call.pop("metric"), call.pop("data"), **call)


def test_wrong_targets_end_the_search_at_once():
    seen = []
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_forward_hook(lambda *_: seen.append(1))
    with pytest.raises(InvalidInputError, match="targets must lie in 0..2"):
        tune(SmoothGrad(model), AbPC(), (torch.rand(2, 4), torch.tensor([0, 7])), n_trials=50, progress=False)
    assert len(seen) < 10  # the first call on a model takes a few to get to know it


@pytest.mark.parametrize("text", ["no JSON", "[1]", "{}"])
def test_a_file_that_holds_no_result(tmp_path, text):
    path = tmp_path / "result.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=r"result\.json holds no TuneResult that can be read"):
        TuneResult.load(path)

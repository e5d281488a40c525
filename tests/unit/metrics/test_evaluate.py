"""evaluate: the table against the metrics one by one, its intervals, and what goes wrong in between."""

from __future__ import annotations

import inspect
import json
import math
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from xaikit import Explainer, evaluate
from xaikit.core import METRICS
from xaikit.core.errors import (
    InvalidInputError,
    InvalidTypeError,
    MissingDependencyError,
    UnboundError,
    UnknownNameError,
)
from xaikit.core.results import Interval
from xaikit.explainers import Gradient, GradientXInput
from xaikit.metrics import AbPC, Entropy, Evaluation, MaxSensitivity, Metric, RelevanceMass
from xaikit.metrics.table import bootstrap_interval, make_row
from xaikit.transforms import Postprocessor


def ends(values, confidence, seed):
    """Mean, low and high of the bootstrap interval."""
    interval = bootstrap_interval(values, confidence, seed)
    return interval.mean, interval.low, interval.high


@pytest.fixture
def model():
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, 3)).double()


@pytest.fixture
def batches():
    return [(torch.randn(n, 2, 4, 4).double(), torch.arange(n) % 3, torch.rand(n, 4, 4) > 0.5) for n in (5, 3)]


class Failing(Explainer):
    """Explains nothing."""

    def _attribute(self, call):
        raise RuntimeError("no rule for this model")


def run(explainers, metrics, data, **options):
    return evaluate(explainers, metrics, data, progress=False, **options)


def test_values_are_those_of_the_metrics_one_by_one(model, batches):
    metrics = [AbPC(n_steps=4), MaxSensitivity(n_iter=2), RelevanceMass()]
    table = run([Gradient(model), GradientXInput(model)], metrics, batches, seed=3)
    assert len(table) == 6
    for explainer in (Gradient(model), GradientXInput(model)):
        for metric in metrics:
            row = table[explainer.NAME, metric.NAME]
            values = torch.cat([metric.evaluate(explainer, x, y, relevant_region=m, seed=3) for x, y, m in batches])
            assert row.values == tuple(values.tolist())
            assert row.mean == pytest.approx(values.mean().item())
            assert row.low < row.mean < row.high
            assert (row.n, row.n_nan, row.error, row.direction) == (8, 0, None, metric.DIRECTION)


def test_an_explainer_explains_each_batch_once(model, batches):
    calls = []

    class Counting(Gradient):
        def _attribute(self, call):
            calls.append(call.n)
            return super()._attribute(call)

    run(Counting(model), ["abpc", "entropy", "sparseness", "auc"], batches)
    assert calls == [5, 3]


def test_a_postprocessor_reaches_every_metric(model, batches):
    pool = Postprocessor(pooling="l2norm", normalization="maxabs")
    table = run("gradient", ["entropy", "max_sensitivity:n_iter=2"], batches, model=model, postprocess=pool)
    expected = [
        torch.cat([metric.evaluate(Gradient(model), x, y, postprocess=pool) for x, y, _ in batches])
        for metric in (Entropy(), MaxSensitivity(n_iter=2))
    ]
    for row, values in zip(table, expected, strict=True):
        assert row.values == tuple(values.tolist())


def test_failures_are_rows_with_their_reason(model, batches):
    table = run(
        {"works": Gradient(model), "fails": Failing(model)},
        ["abpc", "random_logit"],
        [(batches[0][0], lambda o: o[:, 0])],
    )
    assert table["works", "abpc"].n == 5
    assert table["works", "random_logit"].error.startswith("InvalidInputError: RandomLogit compares")
    for metric in ("abpc", "random_logit"):
        row = table["fails", metric]
        assert row.error == "RuntimeError: no rule for this model"
        assert (row.n, row.values) == (0, ())
        assert math.isnan(row.mean)
    assert table.best("abpc") == "works"
    assert "fails, abpc: RuntimeError: no rule for this model" in repr(table)
    with pytest.raises(InvalidInputError, match="no explainer has a value of 'random_logit'"):
        table.best("random_logit")


def test_nan_is_counted_and_left_out_of_the_mean(model):
    x = torch.randn(6, 2, 4, 4).double()
    masks = torch.ones(6, 4, 4)
    masks[[1, 4]] = 0
    row = run(Gradient(model), RelevanceMass(), (x, 0, masks))["gradient", "relevance_mass"]
    assert (row.n, row.n_nan) == (4, 2)
    assert row.mean == pytest.approx(np.nanmean(row.values))
    assert "2 samples NaN" in repr(run(Gradient(model), RelevanceMass(), (x, 0, masks)))


def test_the_interval_is_the_bootstraps():
    """Against scipy's percentile bootstrap, and by its coverage of a known mean."""
    values = np.random.default_rng(0).exponential(size=60)
    mean, low, high = ends(values.tolist(), 0.9, 0)
    generator = "rng" if "rng" in inspect.signature(stats.bootstrap).parameters else "random_state"  # before scipy 1.15
    settings = {"confidence_level": 0.9, "n_resamples": 20_000, "method": "percentile"}
    theirs = stats.bootstrap(
        (values,), np.mean, **settings, **{generator: np.random.default_rng(1)}
    ).confidence_interval
    assert mean == pytest.approx(values.mean())
    width = theirs.high - theirs.low
    assert [low, high] == pytest.approx([theirs.low, theirs.high], abs=0.05 * width)
    draws = np.random.default_rng(2).normal(size=(150, 40))
    hits = [low <= 0 <= high for low, high in (ends(row.tolist(), 0.9, 0)[1:] for row in draws)]
    assert 0.8 < np.mean(hits) < 0.97


def test_the_interval_of_few_values():
    assert ends([], 0.95, 0) == pytest.approx((math.nan,) * 3, nan_ok=True)
    assert ends([2.0, math.nan], 0.95, 0) == pytest.approx((2, math.nan, math.nan), nan_ok=True)
    assert ends([2.0, 2.0], 0.95, 0) == (2, 2, 2)


def test_a_difference_is_paired(model, batches):
    table = run([Gradient(model), GradientXInput(model)], "abpc", batches)
    a, b = (table[name, "abpc"].values for name in ("gradient", "gradient_x_input"))
    difference = table.difference("abpc", "gradient", "gradient_x_input")
    assert difference.mean == pytest.approx(np.mean(np.array(a) - np.array(b)))
    assert difference.low < difference.mean < difference.high
    assert (difference.level, difference.n) == (table.confidence, len(a))
    assert table.difference("abpc", "gradient", "gradient") == Interval(0.0, 0.0, 0.0, 0.95, len(a))


def test_ctrl_c_keeps_what_is_done(model, batches):
    class Interrupting(Gradient):
        def _attribute(self, call):
            raise KeyboardInterrupt

    table = run({"first": Gradient(model), "second": Interrupting(model)}, ["abpc", "entropy"], batches)
    assert table.stopped == "interrupted"
    assert table["first", "entropy"].n == len(batches[0][0])
    assert table["second", "entropy"].error == "not reached before Ctrl-C"
    assert "stopped by Ctrl-C" in repr(table)
    with pytest.raises(KeyboardInterrupt):
        run(Interrupting(model), "abpc", batches)


def test_json_and_back(model, batches, tmp_path):
    table = run({"a": Gradient(model), "b": Failing(model)}, ["abpc", "auc"], batches)
    state = json.loads(json.dumps(table.to_dict(), allow_nan=False))
    again = Evaluation.from_dict(state)
    assert again == table
    assert again.to_dict() == table.to_dict()
    assert repr(again) == repr(table)
    assert METRICS.create(again.metrics["abpc"]) == AbPC()
    assert Evaluation.load(table.save(tmp_path / "table.json")).to_dict() == table.to_dict()


def test_pandas(model, batches, monkeypatch):
    pd = pytest.importorskip("pandas")
    frame = run([Gradient(model), GradientXInput(model)], ["abpc", "entropy"], batches).to_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert frame.shape == (4, 9)
    assert frame.pivot_table(index="explainer", columns="metric", values="mean").shape == (2, 2)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match=r"xaikit\[tables\]"):
        run(Gradient(model), "abpc", batches).to_pandas()


def test_labels(model, batches):
    table = run([Gradient(model), "gradient", {"name": "gradient_x_input"}], "abpc", batches[:1], model=model)
    assert list(table.explainers) == ["Gradient(Sequential)", "gradient", "gradient_x_input"]
    two = run(Gradient(model), [AbPC(n_steps=3), AbPC(n_steps=5), "abpc:n_steps=4"], batches[:1])
    assert list(two.metrics) == [
        "AbPC(n_steps=3)",
        "AbPC(n_steps=5)",
        "abpc:n_steps=4",
    ]
    with pytest.raises(InvalidInputError, match=r"same label, 'gradient'; give a dict"):
        run(["gradient", "gradient"], "abpc", batches, model=model)
    with pytest.raises(UnknownNameError, match="has no 'gradiant'; did you mean 'gradient'"):
        table["gradiant", "abpc"]


def test_one_model_against_another(model, batches):
    other = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    table = run({"old": Gradient(model), "new": Gradient(other)}, "abpc", batches)
    assert table["old", "abpc"].values != table["new", "abpc"].values


@pytest.mark.parametrize(
    ("explainers", "metrics", "data", "error", "words"),
    [
        ("gradient", "auc", "pair", InvalidInputError, r"'auc' compares with masks, and the data has none"),
        ("gradient", "abcp", "pair", UnknownNameError, "did you mean 'abpc'"),
        ("gradiant", "abpc", "pair", UnknownNameError, "did you mean 'gradient'"),
        ([], "abpc", "pair", InvalidInputError, "at least one explainer"),
        ("gradient", [], "pair", InvalidInputError, "at least one metric"),
        ("gradient", "abpc", [], InvalidInputError, "no batch"),
        ("gradient", "abpc", "tensor", InvalidTypeError, r"\(inputs, labels\) or \(inputs, labels, masks\)"),
        ("gradient", "abpc", "dataset", InvalidTypeError, "a data set must give samples"),
        (3, "abpc", "pair", InvalidTypeError, "expected explainer"),
    ],
)  # fmt: skip
def test_bad_arguments(model, explainers, metrics, data, error, words):
    x = torch.rand(2, 2, 4, 4).double()
    data = {"pair": (x, 0), "tensor": x, "dataset": torch.utils.data.TensorDataset(x)}.get(data, data) if data else data
    with pytest.raises(error, match=words):
        run(explainers, metrics, data, model=model)


def test_an_explainer_without_a_model():
    with pytest.raises(UnboundError, match="'gradient' has no model yet; pass model="):
        run("gradient", "abpc", (torch.rand(2, 4), 0))


def test_a_metric_of_ones_own(model, batches):
    class Largest(Metric):
        """Largest attribution."""

        DIRECTION = "maximize"

        def _evaluate(self, case):
            return case.attributions[0].flatten(1).amax(1)

    table = run(Gradient(model), {"largest": Largest()}, batches)
    expected = torch.cat([Gradient(model).attribute(x, y).flatten(1).amax(1) for x, y, _ in batches])
    assert table["gradient", "largest"].values == tuple(expected.tolist())
    json.dumps(table.to_dict())


def test_arrays_lists_and_regions_by_keyword_are_read_like_tensors(model):
    x, y, region = torch.rand(5, 2, 4, 4), torch.arange(5) % 3, torch.rand(5, 4, 4) > 0.5
    single, metrics = model.float(), ["abpc:n_steps=4", "relevance_mass"]
    truth = run("gradient", metrics, (x, y, region), model=single)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=5)
    forms = [
        ((x.numpy(), y.numpy(), region.numpy()), None),
        ((x.tolist(), y.tolist(), region.numpy().astype("uint8")), None),
        ((x.double().numpy(), y.numpy().astype("int16")), region.float().tolist()),
        ((x, y), list(region)),
        (loader, region),
        (torch.utils.data.TensorDataset(x, y), region.numpy()),
    ]
    for data, relevant_region in forms:
        table = run("gradient", metrics, data, model=single, relevant_region=relevant_region)
        for metric in metrics:
            assert table["gradient", metric].values == pytest.approx(truth["gradient", metric].values, nan_ok=True)


def test_samples_without_a_region_say_nothing(model):
    x, region = torch.rand(4, 2, 4, 4).double(), torch.ones(4, 4)
    region[0] = 0
    for listed, n in (([region, None, region, None], 2), ([None] * 4, 0), ([region] * 4, 4)):
        row = run(Gradient(model), "relevance_mass", (x, 0, listed)).rows[0]
        assert (row.n, row.n_nan) == (n, 4 - n)


def test_arrows_say_for_whom() -> None:
    """Two rows by hand: one metric of the explanation, one that compares with a region."""
    rows = [make_row("a", m, d, [0.5, 0.5], confidence=0.9, seed=0, error=None) for m, d in WAYS.items()]
    labels = {"abpc": {"name": "abpc"}, "entropy": {"name": "entropy"}, "mass": {"name": "relevance_mass"}}
    notes = Evaluation(tuple(rows), 0.9, 0, {"a": {}}, labels).directions()
    assert notes[0] == "↑ higher and ↓ lower is better, for the explanation"
    assert notes[1].startswith("mass: higher is better where the region is what the model should look at")
    assert notes[1].endswith("of a shortcut's region lower is better, for the model")
    assert all(note in repr(Evaluation(tuple(rows), 0.9, 0, {"a": {}}, labels)) for note in notes)
    one = Evaluation(tuple(rows[:1]), 0.9, 0, {"a": {}}, {"abpc": {"name": "abpc"}})
    assert one.directions() == ["↑ higher is better, for the explanation"]


WAYS = {"abpc": "maximize", "entropy": "minimize", "mass": "maximize"}

"""Experiment: the tables of `evaluate`, with passes only for what is not known yet."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import nn

from xaikit import evaluate
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers import Gradient, IntegratedGradients, SmoothGrad
from xaikit.metrics import AbPC, Entropy, Experiment, FFidelity, MaxSensitivity, RelevanceMass, Sparseness
from xaikit.transforms import Postprocessor


class Counting(nn.Module):
    """Counts the rows that it and its copies read."""

    rows: ClassVar[int] = 0

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(32, 6), nn.Tanh(), nn.Linear(6, 3)).double()

    def forward(self, x):
        Counting.rows += len(x)
        return self.layers(x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Counting()


@pytest.fixture
def batches():
    return [(torch.randn(n, 2, 4, 4).double(), torch.arange(n) % 3, torch.rand(n, 4, 4) > 0.5) for n in (5, 3)]


def test_what_is_known_costs_no_pass(model, batches):
    pooled = Postprocessor(pooling="l2norm")
    metrics, explainers = [Entropy(), AbPC(n_steps=4), RelevanceMass()], ["gradient", SmoothGrad(n_iter=3)]
    tables = [
        evaluate(explainers, metrics, batches, model=model, postprocess=p, progress=False) for p in (None, pooled)
    ]
    experiment = Experiment(model, batches)

    def rows_of(*call, **options):
        before = Counting.rows
        table = experiment.evaluate(*call, **options, progress=False)
        return table, Counting.rows - before

    first, rows = rows_of(explainers, metrics)
    assert first == tables[0]
    assert rows > 8 * 4
    assert rows_of(explainers, metrics) == (tables[0], 0)
    assert rows_of(SmoothGrad(n_iter=3).bind(model), [metrics[2], Sparseness()])[1] == 0  # no pass of its own
    # Attributions are shared, so another way to postprocess takes the passes of the metric alone.
    assert rows_of(explainers, [Entropy(), RelevanceMass()], postprocess=pooled)[1] == 0
    second, rows_of_curves = rows_of(explainers, metrics, postprocess=pooled)
    assert second == tables[1]
    assert 0 < rows_of_curves < rows
    assert rows_of(SmoothGrad(n_iter=4), Entropy())[1] > 0
    assert repr(experiment) == "Experiment(8 samples: 3 explanations, 14 measurements)"


def test_other_weights_and_samples_are_noticed(model, batches):
    experiment = Experiment(model, batches)
    before = experiment.evaluate("gradient", "entropy", progress=False)
    for change in (lambda: model.layers[1].weight.data.mul_(-2), lambda: batches[1][0].add_(1)):
        change()
        expected = evaluate("gradient", "entropy", batches, model=model, progress=False)
        assert experiment.evaluate("gradient", "entropy", progress=False) == expected != before
        assert repr(experiment).endswith("1 explanations, 1 measurements)")
        before = expected


def test_all_that_values_depend_on_is_noticed(model, batches):
    """What no state_dict holds: another activation, a number, a buffer that is not saved, a tensor among settings."""
    model.layers[0] = Scale()
    baseline = torch.zeros(2, 4, 4).double()
    explainer, experiment = IntegratedGradients(baseline=baseline, n_steps=3), Experiment(model, batches)
    last = experiment.evaluate(explainer, "entropy", progress=False)
    for change in (
        lambda: setattr(model.layers, "2", nn.Softplus()),
        lambda: setattr(model.layers[0], "factor", 2.0),
        lambda: model.layers[0].shift.add_(0.5),
        lambda: baseline.add_(0.3),
    ):
        change()
        expected = evaluate(explainer, "entropy", batches, model=model, progress=False)
        assert experiment.evaluate(explainer, "entropy", progress=False) == expected != last
        last = expected


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = 1.0
        self.register_buffer("shift", torch.zeros(32).double(), persistent=False)

    def forward(self, x):
        return x.flatten(1) * self.factor + self.shift


SIGN = {"factor": 1.0}


def by_global(a):
    return a * SIGN["factor"]


class ByAttribute:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, a):
        return a * self.factor


@dataclasses.dataclass
class ByField:
    factor: float

    def __call__(self, a):
        return a * self.factor


@pytest.mark.parametrize("kind", ["global", "closure", "attribute", "field"])
def test_what_a_postprocessing_names_is_noticed_when_it_changes(model, batches, kind, monkeypatch):
    """The same function was once taken for the same numbers."""
    held = {"closure": 1.0}
    objects = {"attribute": ByAttribute(1.0), "field": ByField(1.0)}
    postprocess = {"global": by_global, "closure": lambda a: a * held["closure"], **objects}[kind]
    experiment = Experiment(model, batches)

    def means():
        tables = (
            experiment.evaluate("gradient", "relevance_mass", postprocess=postprocess, progress=False),
            evaluate("gradient", "relevance_mass", batches, model=model, postprocess=postprocess, progress=False),
        )
        return [table["gradient", "relevance_mass"].mean for table in tables]

    found, expected = means()
    assert found == expected
    monkeypatch.setitem(SIGN, "factor", -1.0)
    held["closure"] = -1.0
    for one in objects.values():
        one.factor = -1.0
    other, expected = means()
    assert other == expected
    assert other != found


def test_memory_is_bounded(model, batches):
    of_one = 8 * 2 * 4 * 4 * 8 / 1e9  # gigabytes: 8 samples (2, 4, 4) of 8 bytes
    for limit, kept in ((2.5, 2), (1.0, 1), (0.7, 1), (0.1, 0)):
        experiment = Experiment(model, batches, max_gigabytes=limit * of_one)
        for explainer in ("gradient", SmoothGrad(n_iter=2), IntegratedGradients(n_steps=2), "gradient"):
            for metric in ("entropy", "sparseness"):
                expected = evaluate(explainer, metric, batches, model=model, progress=False)
                assert experiment.evaluate(explainer, metric, progress=False) == expected
            assert experiment._attributions.size <= limit * of_one * 1e9
        assert repr(experiment) == f"Experiment(8 samples: {kept} explanations, 6 measurements)"


def test_a_metric_with_another_model_is_another_one(model, batches):
    tuned = Counting()
    metric, experiment = FFidelity(tuned_model=tuned, n_iter=2), Experiment(model, batches)
    first = experiment.evaluate("gradient", metric, progress=False)
    tuned.layers[3].weight.data.mul_(3)
    assert experiment.evaluate("gradient", metric, progress=False) != first


def test_errors_and_interruptions_are_tried_again(model, batches):
    class Fragile(Gradient):
        fails = True

        def _attribute(self, call):
            if type(self).fails:
                raise RuntimeError("not yet")
            return super()._attribute(call)

    class Slow(MaxSensitivity):
        def _evaluate(self, context):
            raise KeyboardInterrupt

    experiment = Experiment(model, batches)
    assert "not yet" in experiment.evaluate(Fragile(), "entropy", progress=False).rows[0].error
    assert repr(experiment) == "Experiment(8 samples: 0 explanations, 0 measurements)"
    Fragile.fails = False
    assert experiment.evaluate(Fragile(), "entropy", progress=False).rows[0].n == 8
    table = experiment.evaluate({"a": Gradient()}, {"b": Entropy(), "c": Slow()}, progress=False)
    assert (table.stopped, table["a", "b"].n, table["a", "c"].n) == ("interrupted", 5, 0)
    assert experiment.evaluate({"a": Gradient()}, {"b": Entropy()}, progress=False)["a", "b"].n == 8


def test_wrong_calls(model, batches):
    with pytest.raises(InvalidTypeError, match="an experiment needs a torch.nn.Module"):
        Experiment(lambda x: x, batches)
    with pytest.raises(InvalidInputError, match="'integrated_gradients' has another"):
        Experiment(model, batches).evaluate(IntegratedGradients(Counting()), "entropy")
    with pytest.raises(InvalidInputError, match="the data has none"):
        Experiment(model, [batch[:2] for batch in batches]).evaluate("gradient", "relevance_mass")
    with pytest.raises(InvalidTypeError, match="postprocess must be a function"):
        Experiment(model, batches).evaluate("gradient", "entropy", postprocess=[1])

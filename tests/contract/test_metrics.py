"""Every registered metric keeps every promise: a new one inherits these tests without a line."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from xaikit.core import METRICS
from xaikit.explainers import Gradient, GradientXInput


@pytest.fixture
def case():
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    return model, torch.randn(6, 2, 4, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", list(METRICS))
def test_a_number_per_sample_whatever_the_batch(name, case):
    model, x, y = case
    explainer, metric = Gradient(model), METRICS.create(name)
    assert metric.DIRECTION in ("maximize", "minimize")
    found = metric.evaluate(explainer, x, y)
    assert found.shape == (6,)
    assert not found.requires_grad
    assert torch.equal(found, metric.evaluate(explainer, x, y))
    assert torch.equal(found, metric.evaluate(explainer, x, y, explainer.attribute(x, y)))
    alone = torch.cat([metric.evaluate(explainer, x[i : i + 1], y[i]) for i in range(6)])
    assert torch.allclose(found, alone)


@pytest.mark.parametrize("name", list(METRICS))
def test_the_truth_beats_chance(name, case):
    """On a linear model w * x is the truth."""
    model, x, y = case
    metric = METRICS.create(name)
    oracle = metric.evaluate(GradientXInput(model), x, y).mean()
    chance = torch.stack([metric.evaluate(Gradient(model), x, y, torch.randn_like(x)).mean() for _ in range(5)]).mean()
    assert (oracle > chance) == (metric.DIRECTION == "maximize")


@pytest.mark.parametrize("name", list(METRICS))
def test_spec_goes_round(name):
    metric = METRICS.create(name)
    assert METRICS.create(json.loads(json.dumps(metric.spec()))) == metric

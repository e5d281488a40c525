"""Metrics where there is nothing to remove, to order or to draw anew, and on attributions that are pooled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core import METRICS
from xaikit.core.errors import InvalidInputError
from xaikit.explainers import Gradient, GradientXInput
from xaikit.metrics import IROF, CompletenessGap, Infidelity, MonotonicityArya, RegionPerturbation
from xaikit.metrics.perturbation import PerturbationMetric

IN_ORDER = [n for n in METRICS if issubclass(METRICS.get(n), PerturbationMetric) and METRICS.get(n).IN_ORDER]


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(128, 3)).double()
    return model, torch.rand(3, 3, 6, 10).double(), torch.randn(3, 3, 6, 10).double()


def test_these_metrics_remove_in_order():
    assert {"abpc", "deletion", "faithfulness_estimate", "irof", "road", "f_fidelity"} <= set(IN_ORDER)
    assert not {"infidelity", "completeness_gap", "mu_fidelity"} & set(IN_ORDER)


@pytest.mark.parametrize("name", IN_ORDER)
def test_an_attribution_that_is_the_same_everywhere_has_no_value(name, case):
    """The order in memory was once measured in its place."""
    model, x, a = case
    metric = METRICS.create(name)
    expected = metric.evaluate(Gradient(model), x, 1, a)
    a[1] = 0.5
    found = metric.evaluate(Gradient(model), x, 1, a)
    assert found.isnan().tolist() == [False, True, False]
    assert torch.allclose(found[[0, 2]], expected[[0, 2]], rtol=1e-9)


@pytest.mark.parametrize("name", [n for n in IN_ORDER if n != "road"])
def test_a_sample_that_is_the_baseline_has_no_value(name, case):
    """Nothing can be removed from it; `monotonicity_arya` once called that perfect."""
    model, x, a = case
    metric = METRICS.create(name).set_kwargs(baseline=0.25)
    x[2] = 0.25
    assert metric.evaluate(Gradient(model), x, 1, a).isnan().tolist() == [False, False, True]


def test_the_share_of_a_score_below_zero_says_nothing(case):
    model, x, a = case
    model[3].bias.data -= 10
    assert IROF(output="score").evaluate(Gradient(model), x, 1, a).isnan().all()
    assert IROF().evaluate(Gradient(model), x, 1, a).isfinite().all()


def test_one_position_cannot_rise():
    x = torch.rand(2, 1).double()
    assert MonotonicityArya().evaluate(GradientXInput(nn.Linear(1, 2).double()), x, 0).isnan().all()


def test_pooled_attributions_promise_what_they_sum_to(case):
    """A map (N, 1, H, W) once counted three times over three channels."""
    _, x, _ = case
    model = nn.Sequential(nn.Flatten(), nn.Linear(180, 3)).double()
    explainer = GradientXInput(model)
    pooled = explainer.attribute(x, 1).sum(1, keepdim=True)
    for metric in (Infidelity(), CompletenessGap(baseline="zeros")):
        whole = metric.evaluate(explainer, x, 1)
        found = metric.evaluate(explainer, x, 1, pooled)
        assert torch.allclose(found, whole, atol=1e-12)
        assert found.max() < 1e-12
    regions = RegionPerturbation()
    assert torch.allclose(regions.evaluate(explainer, x, 1, pooled), regions.evaluate(explainer, x, 1))
    with pytest.raises(InvalidInputError, match="needs an attribution of each value, got"):
        Infidelity(perturbation="gaussian").evaluate(Gradient(model), x, 1, pooled)


class NoParameters(nn.Module):
    def forward(self, x):
        return x * torch.arange(1, 4)


def test_a_model_without_layers_or_parameters_is_told():
    x = torch.rand(2, 3)
    for model in (nn.Linear(3, 2), NoParameters()):
        with pytest.raises(InvalidInputError, match=f"{type(model).__name__} holds none"):
            METRICS.create("relative_representation_stability").evaluate(Gradient(model), x, 0)
    for name in ("model_randomisation", "smooth_mprt", "efficient_mprt"):
        with pytest.raises(InvalidInputError, match="draws parameters anew, and NoParameters has none"):
            METRICS.create(name).evaluate(Gradient(NoParameters()), x, 0)

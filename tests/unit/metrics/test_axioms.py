"""Completeness, NonSensitivity and InputInvariance against Quantus, plain loops and closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS
from xaikit.explainers import Gradient, GradientXInput, IntegratedGradients, SmoothGrad
from xaikit.metrics import CompletenessGap, InputInvariance, NonSensitivity


def net(features=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def test_the_gap_of_integrated_gradients_is_the_one_that_explain_reports():
    model, x, y = net(), torch.randn(5, 8).double(), torch.tensor([0, 1, 2, 0, 1])
    explainer = IntegratedGradients(model, n_steps=5, baseline="mean")
    found = CompletenessGap(baseline="mean").evaluate(explainer, x, y)
    assert torch.allclose(found, explainer.explain(x, y).gap)
    fine = CompletenessGap(baseline="mean").evaluate(explainer.set_kwargs(n_steps=60), x, y)
    assert bool((fine < 1e-10).all())


def test_the_gap_of_given_attributions():
    model, x, a = net(), torch.randn(5, 8).double(), torch.randn(5, 8).double()
    drop = (model(x) - model(torch.full_like(x, 0.5)))[:, 2].detach()
    found = CompletenessGap(baseline=0.5).evaluate(Gradient(model), x, 2, a)
    assert torch.allclose(found, (a.sum(1) - drop).abs())


def test_the_gap_is_zero_where_quantus_calls_it_complete(quantus):
    model, x, y = net().float(), torch.randn(4, 1, 2, 4), torch.tensor([0, 1, 2, 0])
    a = IntegratedGradients(model, n_steps=80).attribute(x, y)
    a[1] += 0.1
    gap = CompletenessGap().evaluate(Gradient(model), x, y, a)
    # Quantus asks for equal numbers: the output is rounded as the sum of its attributions is.
    options = {"output_func": lambda v: v, "perturb_baseline": 0.0}
    theirs = quantus.metric("Completeness", model, x, y, a, **options)
    assert gap[1].item() == pytest.approx(0.8, abs=1e-5)
    assert [g < 1e-5 for g in gap.tolist()] == [i != 1 for i in range(4)]
    assert not theirs[1]


class Partly(nn.Module):
    """Reads the features 0 to 3 of 8."""

    def forward(self, x):
        x = x.flatten(1)
        return torch.stack([x[:, :4].square().sum(1), x[:, 0]], 1)


def test_non_sensitivity_counts_what_disagrees():
    model, x = Partly(), torch.randn(3, 8).double()
    a = torch.ones(3, 8).double()
    a[0, 4:] = 0  # right
    a[1, 2:] = 0  # two read features without attribution
    found = NonSensitivity(feature_mask="columns").evaluate(Gradient(model), x, 0, a)
    assert found.tolist() == [0, 2, 4]
    assert NonSensitivity().evaluate(Gradient(model), x, 0).tolist() == [0, 0, 0]


def test_non_sensitivity_equals_quantus(quantus):
    """Quantus counts an attribution below its threshold as none, so positive ones."""
    model, x = Partly(), torch.randn(5, 1, 2, 4).double()
    a = (torch.randn(5, 1, 2, 4).double()).clamp_min(0)
    theirs = quantus.metric(
        "NonSensitivity", model, x, torch.zeros(5, dtype=torch.long), a,
        eps=1e-8, features_in_step=1, perturb_baseline="uniform",
    )  # fmt: skip
    each = torch.arange(8).view(1, 2, 4)
    ours = NonSensitivity(feature_mask=each, threshold=1e-8).evaluate(Gradient(model), x, 0, a)
    assert ours.tolist() == list(theirs)


def test_non_sensitivity_of_groups_in_small_passes():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(128, 3)), torch.randn(4, 2, 8, 8)
    whole = NonSensitivity().evaluate(Gradient(model), x, 0, torch.zeros_like(x))
    assert whole.tolist() == [16] * 4  # a grid of 2 x 2 patches: the output reacts to all
    assert torch.equal(NonSensitivity(max_rows=3).evaluate(Gradient(model), x, 0, torch.zeros_like(x)), whole)


def test_closed_form_of_input_invariance():
    """The gradient stays; input x gradient becomes (x + c) g, so it moves by |c g| / |x g|."""
    model, x = net(), torch.randn(4, 8).double()
    assert torch.allclose(InputInvariance().evaluate(Gradient(model), x, 1), torch.zeros(4).double())
    assert torch.allclose(InputInvariance().evaluate(SmoothGrad(model), x, 1), torch.zeros(4).double(), atol=1e-9)
    g = Gradient(model).attribute(x, 1)
    found = InputInvariance(shift=-0.5).evaluate(GradientXInput(model), x, 1)
    assert torch.allclose(found, (0.5 * g).norm(dim=1) / (x * g).norm(dim=1))


def test_input_invariance_equals_a_model_whose_first_bias_undoes_the_shift():
    """The construction of the source: b' = b - W c. (Quantus leaves one feature unshifted, so it is no peer here.)"""
    model, x, c = net(), torch.randn(4, 8).double(), 0.7
    other = net()
    other.load_state_dict(model.state_dict())
    other[1].bias.data -= c * model[1].weight.data.sum(1)
    assert torch.allclose(other(x + c), model(x))
    for explainer in (GradientXInput, IntegratedGradients):
        first, second = explainer(model).attribute(x, 1), explainer(other).attribute(x + c, 1)
        found = InputInvariance(shift=c).evaluate(explainer(model), x, 1)
        assert torch.allclose(found, (second - first).norm(dim=1) / first.norm(dim=1))


@pytest.mark.parametrize(
    "name", ["lrp_epsilon_plus", "contextual_decomposition", "integrated_gradients", "captum.lime"]
)
def test_every_kind_of_explainer_can_be_asked(name):
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)).double()
    found = InputInvariance().evaluate(EXPLAINERS.create(name).bind(model), torch.randn(2, 2, 6, 6).double(), 1)
    assert found.shape == (2,)
    assert bool(torch.isfinite(found).all())

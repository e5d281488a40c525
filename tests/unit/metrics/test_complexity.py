"""Sparseness, entropy and effective complexity against Quantus, scipy and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from xaikit.explainers import Gradient
from xaikit.metrics import EffectiveComplexity, Entropy, Sparseness


def of(metric, a):
    a = torch.as_tensor(a)
    return metric.evaluate(Gradient(nn.Linear(a.shape[1], 1)), torch.rand(a.shape), None, a)


@pytest.fixture
def attributions():
    return torch.randn(6, 1, 5, 4).double()


def test_equal_to_quantus(quantus, attributions):
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 2)).double()
    x, y = torch.randn(6, 1, 5, 4).double(), torch.zeros(6, dtype=torch.long)
    run = lambda name, a: quantus.metric(name, model, x, y, a)
    explainer = Gradient(model)
    # Quantus adds 1e-7 to each attribution.
    assert np.allclose(
        Sparseness().evaluate(explainer, x, y, attributions), run("Sparseness", attributions.abs()), atol=1e-5
    )
    entropy = Entropy().evaluate(explainer, x, y, attributions)
    assert np.allclose(entropy, run("Complexity", attributions.abs()), atol=1e-5)
    # Quantus' threshold is absolute: the attributions are scaled to a largest |a| of 1 first.
    scaled = attributions / attributions.abs().amax((1, 2, 3), keepdim=True)
    theirs = quantus.metric("EffectiveComplexity", model, x, y, scaled.abs(), eps=0.3)
    ours = EffectiveComplexity(threshold=0.3).evaluate(explainer, x, y, attributions)
    assert ours.tolist() == list(theirs)


def test_entropy_equals_scipy(attributions):
    a = attributions.flatten(1)
    assert np.allclose(of(Entropy(), a), stats.entropy(a.abs().numpy(), axis=1))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_closed_forms_of_k_equal_attributions_among_ten(k):
    """The Gini index is 1 - k / P, the entropy log k, the effective complexity k."""
    a = torch.zeros(1, 10).double()
    a[0, :k] = -2.5
    assert math.isclose(of(Sparseness(), a).item(), 1 - k / 10, abs_tol=1e-12)
    assert math.isclose(of(Entropy(), a).item(), math.log(k), abs_tol=1e-12)
    assert of(EffectiveComplexity(), a).item() == k


def test_scale_and_order_do_not_matter(attributions):
    a = attributions.flatten(1)
    for metric in (Sparseness(), Entropy(), EffectiveComplexity()):
        assert torch.allclose(of(metric, a), of(metric, -7 * a[:, torch.randperm(20)]))


def test_an_attribution_of_zero():
    a = torch.zeros(2, 4)
    assert of(Sparseness(), a).isnan().all()
    assert of(Entropy(), a).isnan().all()
    assert of(EffectiveComplexity(), a).tolist() == [0, 0]


def test_low_precision_is_counted_in_single_precision():
    a = torch.rand(1, 5000).bfloat16()
    assert of(Sparseness(), a).dtype == torch.float32
    assert torch.allclose(of(Sparseness(), a), of(Sparseness(), a.float()))

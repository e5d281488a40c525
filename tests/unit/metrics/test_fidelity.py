"""MuFidelity, FaithfulnessCorrelation and Infidelity against plain loops, scipy, Quantus and captum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.explainers import Gradient, GradientXInput
from xaikit.metrics import FaithfulnessCorrelation, Infidelity, MuFidelity
from xaikit.metrics.fidelity import random_subsets
from xaikit.metrics.pooled_features import PooledFeatures, groups
from xaikit.metrics.random_subsets import normal_draws, random_keys


def net(features=12):
    return nn.Sequential(nn.Flatten(), nn.Linear(features, 7), nn.Tanh(), nn.Linear(7, 3)).double()


def flat(values):
    return PooledFeatures(values, (values.shape[1:],))


@pytest.mark.parametrize(("share", "size"), [(0.2, 2), (0.5, 6), (0.01, 1)])
def test_correlation_equals_a_plain_loop(share, size):
    model, x, a = net(), torch.randn(4, 12).double(), torch.randn(4, 12).double()
    found = FaithfulnessCorrelation(n_iter=40, share=share).evaluate(Gradient(model), x, 1, a, seed=3)
    subsets = random_subsets(flat(a), 40, share, 3)[:, 0]
    assert subsets.sum(1).tolist() == [size] * 40
    for i in range(4):
        sums, drops = [], []
        for chosen in subsets.numpy():
            changed = x[i].numpy().copy()
            changed[chosen] = 0
            outputs = [model(torch.from_numpy(v)[None])[0, 1].item() for v in (x[i].numpy(), changed)]
            drops.append(outputs[0] - outputs[1])
            sums.append(a[i].numpy()[chosen].sum())
        assert np.isclose(found[i].item(), stats.pearsonr(sums, drops)[0])


def test_correlation_equals_quantus_on_the_same_subsets(quantus, monkeypatch):
    model, x, a = net().float(), torch.randn(3, 1, 3, 4), torch.randn(3, 1, 3, 4)
    subsets = random_subsets(flat(a.flatten(1)), 25, 1 / 3, 0)[:, 0]
    draws = iter([np.flatnonzero(s.numpy()) for s in subsets for _ in range(3)])
    monkeypatch.setattr(np.random, "choice", lambda *_args, **_kwargs: next(draws))
    y = torch.tensor([0, 2, 1])
    options = {"nr_runs": 25, "subset_size": 4, "perturb_baseline": 0.0}
    theirs = quantus.metric("FaithfulnessCorrelation", model, x, y, a, **options)
    ours = FaithfulnessCorrelation(n_iter=25, share=1 / 3, baseline=0.0).evaluate(Gradient(model), x, y, a)
    assert np.allclose(ours, theirs, atol=1e-5)


def test_mu_fidelity_is_scipys_rank_correlation_over_groups():
    model, x = net(32), torch.randn(2, 2, 4, 4).double()
    a = torch.randn(2, 2, 4, 4).double()
    ids = torch.arange(4).repeat_interleave(4).view(1, 1, 4, 4).expand(1, 2, 4, 4)
    metric = MuFidelity(n_iter=30, share=0.5, feature_mask=ids[0])
    found = metric.evaluate(Gradient(model), x, 2, a)
    parts = groups((a,), (x,), metric.feature_mask)
    assert torch.allclose(parts.values, a.sum(1).flatten(1).unflatten(1, (4, 4)).sum(2))
    for i in range(2):
        sums, drops = [], []
        for chosen in random_subsets(parts, 30, 0.5, 0)[:, 0]:
            keep = ~chosen[ids[0]]
            drops.append((model(x[i : i + 1]) - model((x[i] * keep)[None]))[0, 2].item())
            sums.append(parts.values[i][chosen].sum().item())
        assert np.isclose(found[i].item(), stats.spearmanr(sums, drops)[0])


def test_groups_of_each_samples_own():
    """Samples with 4 and with 2 groups: each gets what it gets alone, in any order."""
    model, x = net(16), torch.randn(2, 1, 4, 4).double()
    ids = torch.stack([torch.arange(16).view(1, 4, 4) // 4, 3 * (torch.arange(16).view(1, 4, 4) // 8)])
    explainer = GradientXInput(model)
    for metric in (MuFidelity(n_iter=20, share=0.5), Infidelity(n_iter=20)):
        whole = metric.set_kwargs(feature_mask=ids).evaluate(explainer, x, 1)
        for i in (0, 1):
            alone = metric.set_kwargs(feature_mask=ids[i : i + 1]).evaluate(explainer, x[i : i + 1], 1)
            assert torch.allclose(whole[i], alone[0])
        small = metric.set_kwargs(feature_mask=ids, max_rows=3).evaluate(explainer, x, 1)
        assert torch.allclose(whole, small)


def test_a_constant_attribution_or_output_correlates_with_nothing():
    x = torch.randn(2, 6).double()
    ones = torch.ones(2, 6).double()
    assert FaithfulnessCorrelation().evaluate(Gradient(nn.Linear(6, 1).double()), x, None, ones).isnan().all()
    flat_model = nn.Linear(6, 1).double()
    nn.init.zeros_(flat_model.weight)
    assert MuFidelity().evaluate(Gradient(flat_model), x, None, torch.randn(2, 6).double()).isnan().all()


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_equals_captum_on_the_same_noise(normalize):
    captum_metrics = pytest.importorskip("captum.metrics")
    model, x, a = net(), torch.randn(5, 12).double(), torch.randn(5, 12).double()
    y = torch.tensor([0, 1, 2, 0, 1])
    (z,) = normal_draws((x,), 16, 0)

    def perturb(inputs):  # captum hands in each sample 16 times in a row
        noise = 0.3 * z.repeat(len(inputs) // 16, 1)
        return noise, inputs - noise

    theirs = captum_metrics.infidelity(model, perturb, x, a, target=y, n_perturb_samples=16, normalize=normalize)
    metric = Infidelity(n_iter=16, perturbation="gaussian", noise_level=0.3, normalize=normalize)
    assert torch.allclose(metric.evaluate(Gradient(model), x, y, a), theirs)


def test_infidelity_of_removal_equals_captums_for_contributions():
    captum_metrics = pytest.importorskip("captum.metrics")
    model, x, a = net(), torch.rand(3, 12).double() + 0.5, torch.randn(3, 12).double()
    removed = random_keys((12,), 20, 0) < 0.5

    def perturb(inputs):
        keep = ~removed.repeat(len(inputs) // 20, 1)
        return inputs * keep

    # Its only parameter, multiply_by_inputs, has another name in old versions.
    wrapped = captum_metrics.infidelity_perturb_func_decorator(True)(perturb)
    theirs = captum_metrics.infidelity(model, wrapped, x, a, target=1, n_perturb_samples=20)
    assert torch.allclose(Infidelity(n_iter=20).evaluate(Gradient(model), x, 1, a), theirs)


def test_what_is_exact_on_a_linear_model():
    model, x = nn.Linear(9, 4).double(), torch.randn(5, 9).double()
    assert torch.allclose(Infidelity().evaluate(GradientXInput(model), x, 1), torch.zeros(5).double(), atol=1e-24)
    gaussian = Infidelity(perturbation="gaussian")
    assert torch.allclose(gaussian.evaluate(Gradient(model), x, 1), torch.zeros(5).double(), atol=1e-24)
    tripled = 3 * Gradient(model).attribute(x, 1)
    assert (gaussian.evaluate(Gradient(model), x, 1, tripled) > 1e-3).all()
    best = gaussian.set_kwargs(normalize=True).evaluate(Gradient(model), x, 1, tripled)
    assert torch.allclose(best, torch.zeros(5).double(), atol=1e-24)
    # Of an attribution of zero what is left is the mean square of the drop.
    zero = Infidelity(perturbation="gaussian", noise_level=2.0, n_iter=4000).evaluate(
        Gradient(model), x, 1, torch.zeros_like(x)
    )
    assert torch.allclose(zero, 4 * model.weight[1].detach().square().sum().expand(5), rtol=0.1)


def test_settings_that_cannot_be_right():
    for wrong in ({"share": 0.0}, {"share": 1.0}, {"n_iter": 1}, {"correlation": "kendall"}):
        with pytest.raises(InvalidInputError):
            MuFidelity(**wrong)

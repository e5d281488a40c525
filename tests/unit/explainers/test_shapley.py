"""Shapley values against their definition over all orders; their errors, sums and derivatives."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import ExactShapley, KernelShapley, PermutationShapley
from xaikit.explainers.shapley.plans import kernel_plan, permutation_plan
from xaikit.testing import derivative_error


def net(features=6, hidden=8):
    generator = torch.Generator().manual_seed(features)
    model = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, 3)).double()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator).double()
    return model


def by_definition(model, x, target, groups, baseline=0.0):
    """The mean over all orders of what a group adds, shared among its features."""
    players = int(groups.max()) + 1
    values = torch.zeros(players).double()
    orders = list(itertools.permutations(range(players)))
    for order in orders:
        changed = torch.full_like(x, baseline)
        before = model(changed[None])[0, target]
        for player in order:
            changed[groups == player] = x[groups == player]
            after = model(changed[None])[0, target]
            values[player] += (after - before).item() / len(orders)
            before = after
    sizes = torch.bincount(groups.flatten(), minlength=players)
    return (values / sizes)[groups]


def test_exact_is_the_mean_over_all_orders():
    model, x = net(5), torch.randn(2, 5).double()
    groups = torch.tensor([0, 1, 1, 2, 2])
    for ids, mask in ((torch.arange(5), None), (groups, groups)):
        found = ExactShapley(model, feature_mask=mask, baseline=0.3).attribute(x, 1)
        expected = torch.stack([by_definition(model, one, 1, ids, 0.3) for one in x])
        assert torch.allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("explainer", [KernelShapley, PermutationShapley])
def test_estimates_near_the_exact_values(explainer):
    model, x, y = net(10), torch.randn(8, 10).double(), torch.arange(8) % 3
    exact = ExactShapley(model).attribute(x, y)
    # Enough coalitions are exact for the fit; for orders, few are left to chance.
    assert torch.allclose(KernelShapley(model, n_coalitions=1024).attribute(x, y), exact, rtol=1e-9)
    errors, told = [], []
    for seed in range(12):
        values, standard_errors = explainer(model, n_coalitions=128).estimate(x, y, seed=seed)
        assert torch.allclose(values.sum(1), exact.sum(1), rtol=1e-9)
        errors.append((values - exact).square())
        told.append(standard_errors.square())
    error, standard_error = (torch.stack(t).mean().sqrt() for t in (errors, told))
    assert error < 0.3 * exact.abs().mean()
    assert 0.5 < standard_error / error < 2  # what is told is about what it is


@pytest.mark.nightly
def test_fewer_errors_than_captum_at_equal_passes():
    """benchmarks/shapley.py measures five models; here the one with interactions of three features."""
    import_torchvision()
    from captum.attr import KernelShap

    from benchmarks.shapley import Products, error

    model, x = Products(), torch.randn(4, 10).double()
    exact = ExactShapley(model).attribute(x, 1)
    ours = [error(KernelShapley(model, n_coalitions=256).attribute(x, 1, seed=s), exact) for s in range(3)]
    torch.manual_seed(0)
    one_by_one = [KernelShap(model).attribute(row[None], target=1, n_samples=254) for row in x]
    assert sum(ours) / 3 <= 0.5 * error(torch.cat(one_by_one), exact)


def test_exactly_what_was_not_drawn_has_no_error():
    model, x = net(), torch.randn(2, 6).double()
    for explainer in (ExactShapley(model), KernelShapley(model, n_coalitions=64)):
        values, errors = explainer.estimate(x, 1)
        assert not errors.any()
        assert torch.allclose(values, explainer.attribute(x, 1))
    assert PermutationShapley(model, n_coalitions=4).estimate(x, 1).standard_errors.isnan().all()


def test_budgets_are_kept():
    for players, budget in ((5, 20), (10, 64), (12, 256), (30, 128), (64, 256)):
        assert len(kernel_plan(players, budget, 0).coalitions) <= budget
        assert len(permutation_plan(players, budget, 0).coalitions) <= max(budget, 2 * players)
        plan = kernel_plan(players, budget, 0)
        ones = plan.coalitions.double()
        assert torch.allclose(plan.weights @ ones, torch.eye(players).double(), atol=1e-8)  # linear models are exact


@pytest.mark.parametrize("explainer", [ExactShapley, KernelShapley, PermutationShapley])
def test_derivatives_rows_and_models_without_a_gradient(explainer):
    model, x, y = net(), torch.randn(3, 6).double(), torch.tensor([0, 2, 1])
    small = explainer(model, **({} if explainer is ExactShapley else {"n_coalitions": 20}))
    assert derivative_error(small, x, y) < 1e-5
    assert derivative_error(small.set_kwargs(max_rows=5), x, y) < 1e-5
    assert torch.allclose(small.set_kwargs(max_rows=5).attribute(x, y), small.attribute(x, y))

    class Steps(nn.Module):
        def forward(self, x):
            return (x > 0).double().cumprod(1).sum(1)

    votes = explainer(Steps()).attribute(x)
    assert torch.allclose(votes.sum(1), Steps()(x))


def test_segments_that_differ_between_samples():
    model = nn.Sequential(nn.Flatten(), net(16)).double()
    x = torch.randn(2, 1, 4, 4).double()
    ids = torch.stack([torch.arange(16).view(1, 4, 4) // 8, torch.arange(16).view(1, 4, 4) // 4])
    found = ExactShapley(model, feature_mask=ids).attribute(x, 1)
    for i in range(2):
        expected = by_definition(lambda t: model(t.view(-1, 1, 4, 4)), x[i].flatten(), 1, ids[i].flatten())
        assert torch.allclose(found[i].flatten(), expected, rtol=1e-9)


def test_too_many_groups():
    model, x = net(20), torch.randn(1, 20).double()
    with pytest.raises(InvalidInputError, match=r"20 groups take 2\^20 = 1,048,576 passes.*kernel_shapley"):
        ExactShapley(model, n_segments=20).attribute(x, 0)
    with pytest.raises(InvalidInputError, match="20 groups needs at least 42 coalitions, got n_coalitions=30"):
        KernelShapley(model, n_coalitions=30).attribute(x, 0)


@pytest.mark.parametrize("explainer", [ExactShapley, KernelShapley, PermutationShapley])
def test_samples_with_fewer_groups_get_what_they_get_alone(explainer):
    """The draws are those of a sample's own groups, also beside a sample with more, and with a number that it lacks."""
    model, x = net(12), torch.randn(3, 12).double()
    groups = torch.stack([torch.arange(12), torch.arange(12) // 2, torch.arange(12) // 4 * 3])
    whole = (
        explainer(model, feature_mask=groups, n_coalitions=64)
        if explainer is not ExactShapley
        else explainer(model, feature_mask=groups)
    )
    values, errors = whole.estimate(x, 1)
    for i in range(3):
        alone = whole.set_kwargs(feature_mask=groups[i : i + 1]).estimate(x[i : i + 1], 1)
        assert torch.allclose(values[i], alone.values[0], rtol=1e-9)
        assert torch.allclose(errors[i], alone.standard_errors[0], rtol=1e-9)

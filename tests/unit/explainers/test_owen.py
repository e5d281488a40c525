"""Owen values against their definition over all orders that keep the parts of a hierarchy together."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError
from xaikit.explainers import ExactShapley, OwenShapley
from xaikit.explainers.shapley.hierarchy import leaves_of, neighbours
from xaikit.testing import derivative_error


def net(features=6):
    generator = torch.Generator().manual_seed(features)
    model = nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator).double()
    return model


def orders(tree):
    """All orders in which each part of the hierarchy stays together."""
    if isinstance(tree, int):
        return [[tree]]
    return [
        [leaf for part in parts for leaf in part]
        for arranged in itertools.permutations(tree)
        for parts in itertools.product(*map(orders, arranged))
    ]


def by_definition(score, x, tree, baseline=0.0):
    """The mean of what a feature adds to those before it."""
    values, every = torch.zeros_like(x), orders(tree)
    for order in every:
        changed = torch.full_like(x, baseline)
        before = score(changed)
        for feature in order:
            changed[feature] = x[feature]
            after = score(changed)
            values[feature] += (after - before).detach() / len(every)
            before = after
    return values


TREES = [((0, 1), (2, (3, 4)), 5), (((0, 5), 1), ((2, 3), 4)), (0, (1, 2, 3), (4, 5))]


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_exact_is_the_mean_over_the_orders(tree):
    model, x = net(), torch.randn(2, 6).double()
    values, errors = OwenShapley(model, hierarchy=tree, baseline=0.3).estimate(x, 1)
    expected = torch.stack([by_definition(lambda t: model(t)[1], one, tree, 0.3) for one in x])
    assert torch.allclose(values, expected, rtol=1e-9)
    assert not errors.any()
    assert torch.allclose(values.sum(1), model(x)[:, 1] - model(torch.full_like(x, 0.3))[:, 1])


def test_without_parts_they_are_shapley_values():
    model, x = net(), torch.randn(2, 6).double()
    flat = OwenShapley(model, hierarchy=list(range(6))).attribute(x, 1)
    assert torch.allclose(flat, ExactShapley(model).attribute(x, 1), rtol=1e-9)


def test_what_interacts_shares_first_with_its_neighbour():
    class And(nn.Module):
        def forward(self, x):
            return (x[:, 0] * x[:, 1] * x[:, 2])[:, None]

    x = torch.ones(1, 3).double()
    assert torch.allclose(
        OwenShapley(And(), hierarchy=[[0, 1], 2]).attribute(x, 0)[0], torch.tensor([0.25, 0.25, 0.5]).double()
    )


def test_drawn_orders_come_near_and_tell_how_near():
    model, x, y = net(12), torch.randn(6, 12).double(), torch.arange(6) % 3
    exact = OwenShapley(model, n_coalitions=400).attribute(x, y)
    errors, told = [], []
    for seed in range(12):
        values, standard_errors = OwenShapley(model, n_coalitions=90).estimate(x, y, seed=seed)
        assert torch.allclose(values.sum(1), exact.sum(1), rtol=1e-9)
        errors.append((values - exact).square())
        told.append(standard_errors.square())
    error, standard_error = (torch.stack(t).mean().sqrt() for t in (errors, told))
    assert error < 0.4 * exact.abs().mean()
    assert 0.5 < standard_error / error < 2
    assert OwenShapley(model, n_coalitions=24).estimate(x, y).standard_errors.isnan().all()  # one pair tells nothing


def test_neighbours_stand_together():
    assert neighbours([torch.arange(5)]) == (((0, 1), 2), (3, 4))
    wide = torch.arange(8).view(1, 2, 4)  # two rows of four: the longer axis is cut first
    assert neighbours([wide]) == (((0, 1), (4, 5)), ((2, 3), (6, 7)))
    first, second = torch.tensor([0, 0, 1]), torch.tensor([1, 2])
    assert neighbours([first, second]) == ((0, 1), 2)  # a group of both inputs stands with the first


def test_images_texts_and_segments_of_each_sample():
    torch.manual_seed(0)
    image = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 2)).double()
    x = torch.randn(2, 2, 6, 6).double()
    ids = torch.stack([torch.arange(36).view(6, 6) // 12, torch.arange(36).view(6, 6) % 2])[:, None]  # 3 and 2 groups
    together = OwenShapley(image, feature_mask=ids).attribute(x, 1)
    for i in range(2):
        alone = OwenShapley(image, feature_mask=ids[i]).attribute(x[i : i + 1], 1)
        assert torch.allclose(together[i : i + 1], alone)
    assert together[0, 0, 0].unique().numel() == 1

    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, tokens):
            return self.head(self.embed(tokens).tanh().prod(1))

    words = Words().double()
    tokens = torch.tensor([[1, 2, 3, 4, 5]])
    values = OwenShapley(words, layer="embed").attribute(tokens, 1).sum(2)[0]
    vectors = words.embed(tokens)[0]
    score = lambda present: words.head((vectors * present[:, None]).tanh().prod(0))[1]  # noqa: E731
    expected = by_definition(score, torch.ones(5).double(), neighbours([torch.arange(5)]))
    assert torch.allclose(values, expected, rtol=1e-6)


def test_a_linkage_matrix_and_files():
    linkage = np.array([[0, 1, 0.5, 2], [2, 3, 0.7, 2], [4, 5, 1.0, 4]])
    explainer = OwenShapley(hierarchy=linkage)
    assert explainer.hierarchy == ((0, 1), (2, 3))
    assert EXPLAINERS.create(json.loads(json.dumps(explainer.spec()))) == explainer
    assert sorted(leaves_of(explainer.hierarchy)) == [0, 1, 2, 3]


@pytest.mark.parametrize("budget", [12, 256])
def test_derivatives_and_rows(budget):
    model, x, y = net(), torch.randn(3, 6).double(), torch.tensor([0, 2, 1])
    small = OwenShapley(model, n_coalitions=budget)
    assert derivative_error(small, x, y) < 1e-5
    assert torch.allclose(small.set_kwargs(max_rows=5).attribute(x, y), small.attribute(x, y))


def test_refusals():
    model, x = net(), torch.randn(1, 6).double()
    with pytest.raises(InvalidInputError, match="must hold the 6 groups 0 to 5, and group 5 is missing; feature_mask"):
        OwenShapley(model, hierarchy=[[0, 1], [2, 3], 4]).attribute(x, 0)
    with pytest.raises(InvalidInputError, match="must hold the 6 groups 0 to 5, and there is no group 7"):
        OwenShapley(model, hierarchy=[[0, 1], [2, 3], 4, 5, 7]).attribute(x, 0)
    with pytest.raises(InvalidInputError, match="hold every group once, and group 1 stands in it twice"):
        OwenShapley(hierarchy=[[0, 1], [1, 2]])
    with pytest.raises(InvalidInputError, match="must be nested lists of group numbers.*got 'rows'"):
        OwenShapley(hierarchy="rows")
    with pytest.raises(
        InvalidInputError, match=r"a linkage matrix, \(groups - 1, 4\) as scipy's, of finite numbers, got shape \(3,\)"
    ):
        OwenShapley(hierarchy=np.ones(3))
    with pytest.raises(InvalidInputError, match="joins 0 and 9, and has only 3 nodes by then"):
        OwenShapley(hierarchy=np.array([[0, 9], [1, 2]]))


def test_deep_and_broken_hierarchies_end_in_a_sentence():
    nested, chain = 0, [[0, 1, 0.0, 2]]
    for i in range(1, 1200):
        nested = [nested, i]
        chain.append([1200 + i, i + 1, float(i), i + 2])
    for deep in (nested, np.array(chain)):
        with pytest.raises(InvalidInputError, match="400 levels, and has more; join several groups at once"):
            OwenShapley(hierarchy=deep)
    with pytest.raises(InvalidInputError, match="linkage matrix.*of finite numbers"):
        OwenShapley(hierarchy=np.array([[0, 1, np.nan, 2]]))
    assert OwenShapley(hierarchy=[[np.int64(0), 1], [2, 3]]) == OwenShapley(hierarchy=[[0, 1], [2, 3]])

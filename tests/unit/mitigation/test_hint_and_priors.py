"""HINT and the attribution priors against loops written out, and expected gradients against its definition."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers import ExpectedGradients, GradientXInput
from xaikit.mitigation import HINT, RRR, AttributionPrior
from xaikit.mitigation.priors import gini, total_variation


@pytest.fixture
def images():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2 * 6 * 6, 3)).double()
    x, y = torch.rand(3, 2, 6, 6).double(), torch.tensor([0, 2, 1])
    return model, x, y, model[1].weight.detach().view(3, 2, 6, 6)[y] * x


def test_ranking_counts_the_pairs_in_the_wrong_order(images):
    model, x, y, a = images
    region = torch.zeros(3, 6, 6).double()
    region[0, :3] = region[1, :, 4:] = 1  # none for the last sample
    expected = 0.0
    for n in range(2):
        cells = F.avg_pool2d(a[n].sum(0)[None], 2)[0].flatten().tolist()
        inside = F.avg_pool2d(region[n][None], 2)[0].flatten().tolist()
        for ai, mi in zip(cells, inside, strict=True):
            for aj, mj in zip(cells, inside, strict=True):
                expected += max(0.0, aj - ai) if mi > mj else 0.0
    found = HINT.published(grid=3).loss(model, (x, y, region)).penalty
    assert float(found.detach()) == pytest.approx(expected / 2)


def test_share_is_what_lies_outside(images):
    model, x, y, a = images
    region = torch.zeros(6, 6).double()
    region[1:5, 2:4] = 1
    total = a.sum(1).abs()
    expected = (1 - (total * region).flatten(1).sum(1) / total.flatten(1).sum(1)).mean()
    found = HINT(target="label", grid=6).loss(model, (x, y, region)).penalty
    assert torch.allclose(found, expected)
    everywhere = HINT(target="label", grid=6).loss(model, (x, y, torch.ones(6, 6))).penalty
    assert abs(float(everywhere.detach())) < 1e-12


def test_the_positions_of_a_text_are_its_tokens():
    """At an embedding (N, T, D) the entries of a token count together: its neighbours are tokens."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3)).double()
    tokens, y = torch.randint(0, 9, (2, 5)), torch.tensor([0, 2])
    a = model[2].weight.detach().view(3, 5, 4)[y] * model[0](tokens).detach()
    region = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 1, 0]]).double()
    each, expected = a.sum(2), 0.0
    for n in range(2):
        for i in range(5):
            for j in range(5):
                wrong = max(0.0, float(each[n, j] - each[n, i]))
                expected += wrong if region[n, i] > region[n, j] else 0.0
    explained = GradientXInput(layer="0")
    found = HINT.published(explainer=explained).loss(model, (tokens, y, region))
    assert found.penalty.item() == pytest.approx(expected / 2)
    assert expected > 0
    variation = AttributionPrior(explainer=explained).loss(model, (tokens, y)).penalty
    assert torch.allclose(variation, (a[:, 1:] - a[:, :-1]).abs().sum((1, 2)).mean())


def test_a_ranking_of_shares_ignores_the_size(images):
    model, x, y, _ = images
    region = torch.zeros(6, 6).double()
    region[:3] = 1
    settings = {"normalization": "total", "grid": 3}
    before = HINT.published(**settings).loss(model, (x, y, region)).penalty
    with torch.no_grad():
        model[1].weight.mul_(7)
    assert torch.allclose(HINT.published(**settings).loss(model, (x, y, region)).penalty, before)


def test_total_variation_of_the_gradient(images):
    model, x, y, _ = images
    w = model[1].weight.detach().view(3, 2, 6, 6)[y]
    expected = sum(
        (w[n, c, i + 1, j] - w[n, c, i, j]).abs() if axis else (w[n, c, j, i + 1] - w[n, c, j, i]).abs()
        for n in range(3) for c in range(2) for i in range(5) for j in range(6) for axis in (0, 1)
    ) / 3  # fmt: skip
    prior = AttributionPrior(explainer="gradient")
    assert torch.allclose(prior.loss(model, (x, y)).penalty, expected)
    assert torch.allclose(prior.loss(model, (x, y, torch.ones(6, 6))).penalty, expected)
    shares = AttributionPrior(explainer="gradient", normalization="total").loss(model, (x, y)).penalty
    each = total_variation(w) / w.abs().flatten(1).sum(1)
    assert torch.allclose(shares, each.mean())
    assert total_variation(torch.ones(2, 3, 4, 4)).tolist() == [0, 0]


@pytest.mark.parametrize("n", [2, 7])
def test_gini_is_the_mean_difference_of_pairs(n):
    g = torch.rand(n).double()
    pairs = (g[:, None] - g[None]).abs().sum() / (2 * n * g.sum())
    assert torch.allclose(gini(g), pairs)
    assert float(gini(torch.ones(n))) == 0


def test_sparsity_of_a_linear_model():
    model, x, y = nn.Linear(5, 2).double(), torch.rand(4, 5).double(), torch.tensor([0, 1, 1, 1])
    importance = model.weight.detach()[y].abs().mean(0)
    prior = AttributionPrior(explainer="gradient", prior="sparsity")
    assert torch.allclose(prior.loss(model, (x, y)).penalty, -gini(importance))
    with pytest.raises(InvalidInputError, match="use prior='sparsity'"):
        AttributionPrior(explainer="gradient").loss(model, (x, y))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(4, 2)

    def forward(self, left, right):
        return self.a(left) + self.b(right)


def test_a_prior_over_several_inputs():
    torch.manual_seed(0)
    model, x = Two().double(), {"left": torch.rand(8, 3).double(), "right": torch.rand(8, 4).double()}
    y = torch.arange(8) % 2
    importance = torch.cat([model.a.weight.detach()[y].abs().mean(0), model.b.weight.detach()[y].abs().mean(0)])
    prior = AttributionPrior(explainer="gradient", prior="sparsity", lr=1e-12, n_epochs=1)
    assert torch.allclose(prior.loss(model, (x, y)).penalty, -gini(importance))
    history = prior.fit(model, x, y, progress=False)
    assert history["penalty"][0] == pytest.approx(-float(gini(importance)))


@pytest.mark.parametrize("prior", ["total_variation", "sparsity"])
def test_a_prior_acts(prior):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 2))
    x, y = torch.randn(32, 1, 6, 6), torch.arange(32) % 2
    settings = {"normalization": "total"} if prior == "total_variation" else {}
    mitigator = AttributionPrior(prior=prior, lambda_prior=3.0, lr=1e-2, n_epochs=15, random_state=0, **settings)
    history = mitigator.fit(model, x, y, progress=False)
    assert history["penalty"][-1] < history["penalty"][0] - 0.1 * abs(history["penalty"][0])


def test_a_prior_says_that_it_takes_no_shortcut_away():
    x, y = torch.randn(32, 1, 6, 6), torch.arange(32) % 2
    region = torch.ones(6, 6)
    region[:2] = 0
    model, prior = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), AttributionPrior(n_epochs=1)
    with pytest.warns(UserWarning, match=r"takes no shortcut away; .* mend, CDEP with shortcut_masks=, or HINT"):
        prior.fit(model, x, y, relevant_region=region, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.fit(model, x, y, progress=False)


def test_expected_gradients_by_its_definition():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    x, references = torch.rand(3, 4).double(), torch.rand(5, 4).double()
    explainer = ExpectedGradients(model, references=references, n_iter=1000)
    found = explainer.attribute(x, 1, seed=1)
    points = torch.linspace(0.005, 0.995, 100).double()
    expected = torch.zeros_like(x)
    for b in references:
        for t in points:
            v = (b + t * (x - b)).requires_grad_()
            expected += (x - b) * torch.autograd.grad(model(v)[:, 1].sum(), v)[0] / 500
    assert torch.allclose(found, expected, atol=2e-3)
    total = model(x)[:, 1] - model(references)[:, 1].mean()
    assert torch.allclose(found.sum(1), total, atol=2e-3)
    again = ExpectedGradients(model, references=references, n_iter=7)
    assert torch.equal(again.attribute(x, 1, seed=1), again.attribute(x, 1, seed=1))
    assert not torch.equal(again.attribute(x, 1, seed=1), again.attribute(x, 1, seed=2))
    assert torch.allclose(again.set_kwargs(max_rows=2).attribute(x, 1), again.attribute(x, 1))


def test_expected_gradients_without_references_start_at_zero():
    model, x = nn.Linear(4, 2, bias=False).double(), torch.rand(3, 4).double()
    assert torch.allclose(ExpectedGradients(model, n_iter=3).attribute(x, 1), model.weight[1] * x)
    with pytest.raises(
        InvalidInputError, match=r"references must be samples like those explained, \(K, 4\), got \(2, 3\)"
    ):
        ExpectedGradients(model, references=torch.rand(2, 3)).attribute(x, 1)
    with pytest.raises(InvalidTypeError, match="references must be floating-point"):
        ExpectedGradients(model, references=torch.tensor([[1, 2]]))


def test_a_region_says_where_to_look_and_a_mask_where_not():
    """On a linear model, moving weight into HINT's region lowers its penalty; RRR on the rest agrees."""
    model, x, y = nn.Linear(4, 2).double(), torch.ones(2, 4).double(), torch.tensor([0, 0])
    region = torch.tensor([1.0, 1, 0, 0]).double()
    with torch.no_grad():
        model.weight.zero_()
        model.weight[0] = torch.tensor([1.0, 1.0, 0.5, 0.0])
    hint = HINT(target="label")
    assert float(hint.loss(model, (x, y, region)).penalty.detach()) == pytest.approx(0.5 / 2.5)
    assert float(HINT.published().loss(model, (x, y, region)).penalty.detach()) == 0
    assert float(RRR(output="logit").loss(model, (x, y, 1 - region)).penalty.detach()) == pytest.approx(2 * 0.25)

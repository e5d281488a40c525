"""`published()` of each mitigator is the objective of its paper, written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.mitigation import CDEP, HINT, RRR, AttributionPrior


def test_a_step_of_rrr_descends_the_papers_loss():
    """Summed cross-entropy + l1 * (A d/dx sum over classes of log p)^2 + l2 * |theta|^2; two samples have no mask."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(27, 4)).double()
    x, y = torch.rand(6, 2, 5, 5).double(), torch.tensor([0, 1, 2, 3, 0, 1])
    masks = (torch.rand(6, 5, 5) < 0.3).double()
    masks[2:4] = 0
    l1, l2, rate, n = 30.0, 0.7, 0.05, 6
    by_hand = copy.deepcopy(model)
    inputs = x.clone().requires_grad_()
    log_p = F.log_softmax(by_hand(inputs), 1)
    (slope,) = torch.autograd.grad(log_p.sum(), inputs, create_graph=True)
    penalty = (masks[:, None] * slope).square().sum()
    loss = -log_p[range(n), y].sum() + l1 * penalty + l2 * sum(p.square().sum() for p in by_hand.parameters())
    loss.backward()
    ours = RRR.published(lambda_rrr=l1 / n, weight_decay=2 * l2 / n, optimizer="sgd", lr=rate, n_epochs=1, batch_size=n)
    assert torch.allclose(ours.loss(model, (x, y, masks)).penalty, penalty)
    ours.fit(model, x, y, masks, progress=False)
    for trained, start in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(trained, start - rate * start.grad / n, atol=1e-12)


def test_the_penalty_of_the_published_rrr_is_not_flat_where_the_model_is_sure():
    model = nn.Linear(3, 3).double()
    with torch.no_grad():
        model.weight.copy_(30 * torch.eye(3))
        model.bias.zero_()
    batch = 2 * torch.eye(3).double(), torch.arange(3), torch.ones(3)
    assert float(RRR().loss(model, batch).penalty.detach()) < 1e-20
    # sum_k log p_k has the derivative sum_k w_k - 3 w_c in class c: (1, 1, 1) * 30 - 90 e_c.
    assert float(RRR.published().loss(model, batch).penalty.detach()) == pytest.approx(3 * 30**2 * (1 + 1 + 4))


@pytest.mark.parametrize("prior", ["sparsity", "total_variation"])
def test_the_priors_are_those_of_the_paper(prior):
    """Of a linear model expected gradients at one reference b are w (x - b)."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).double()
    x, y, reference = torch.rand(5, 1, 3, 4).double(), torch.tensor([0, 1, 1, 0, 1]), torch.rand(1, 1, 3, 4).double()
    a = (model[1].weight[y].view(5, 1, 3, 4) * (x - reference)).detach()
    if prior == "sparsity":
        g = a.abs().mean(0).flatten()
        term = -(g[:, None] - g[None]).abs().sum() / (12 * g.sum())
    else:
        term = sum(
            (a[n, 0, i, j] - a[n, 0, k, m]).abs()
            for n in range(5) for i in range(3) for j in range(4)
            for k, m in ((i + 1, j), (i, j + 1)) if k < 3 and m < 4
        ) / 5  # fmt: skip
    loss = AttributionPrior.published(reference, prior=prior, lambda_prior=0.3).loss(model, (x, y))
    assert torch.allclose(loss.total, F.cross_entropy(model(x), y) + 0.3 * term)


@pytest.mark.parametrize("mitigator", [RRR, CDEP, HINT])
def test_a_setting_takes_the_place_of_the_papers(mitigator):
    published = mitigator.published(target="label", lr=0.5)
    assert (published.target, published.lr) == ("label", 0.5)

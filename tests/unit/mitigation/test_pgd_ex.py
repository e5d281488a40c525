"""Robust training inside the mask: the change is inside, within its bounds, and the worst."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError
from xaikit.mitigation import PGDEx


def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    x, mask = torch.randn(6, 2, 4, 4).double(), torch.zeros(6, 4, 4).double()
    mask[:, :2] = 1
    return model, x, torch.arange(6) % 3, mask


def changed(mitigator, model, x, y, mask):
    """What the loss is taken of besides the samples themselves: the last that the model gets."""
    inputs = []
    handle = model.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach().clone()))
    loss = mitigator.loss(model, (x, y, mask), seed=0)
    handle.remove()
    assert len(inputs) == 2 + mitigator.n_steps
    return inputs[-1], loss


def test_a_linear_model_has_the_worst_change_in_a_corner():
    model, x, y, mask = case()
    model[1] = nn.Linear(32, 2).double()
    y = y % 2
    worst, loss = changed(PGDEx(n_steps=10), model, x, y, mask)
    # Against the label: where the other class's weight is larger, the largest value of the channel, else the smallest.
    weight = (model[1].weight[1] - model[1].weight[0]).reshape(2, 4, 4)
    high, low = x.amax((0, 2, 3)).view(1, 2, 1, 1), x.amin((0, 2, 3)).view(1, 2, 1, 1)
    up = (weight[None] > 0) == (y == 0).view(-1, 1, 1, 1)
    expected = torch.where(mask[:, None] > 0, torch.where(up, high, low), x)
    assert torch.allclose(worst, expected)
    assert loss.penalty.item() == pytest.approx(F.cross_entropy(model(expected), y).item())


def test_the_change_keeps_its_bounds():
    model, x, y, mask = case()
    worst, _ = changed(PGDEx(epsilon=0.1), model, x, y, mask)
    span = (x.amax((0, 2, 3)) - x.amin((0, 2, 3))).view(1, 2, 1, 1)
    assert torch.equal(worst[:, :, 2:], x[:, :, 2:])
    assert bool(((worst - x).abs() <= 0.1 * span + 1e-12).all())
    assert bool((worst != x)[:, :, :2].any())
    half, _ = changed(PGDEx(epsilon=0.1), model, x, y, mask * 0.5)
    assert bool(((half - x).abs() <= 0.05 * span + 1e-12).all())


def test_the_model_and_the_samples_stay_as_they_are():
    model, x, y, mask = case()
    model = nn.Sequential(nn.BatchNorm2d(2), model).double().train()
    before, samples = {k: v.clone() for k, v in model.state_dict().items()}, x.clone()
    PGDEx().set_kwargs(lambda_pgd=0.0).loss(model, (x, y, mask))
    assert int(model[0].num_batches_tracked) == 1 + int(before["0.num_batches_tracked"])
    assert torch.equal(x, samples)
    assert model.training
    embed = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    tokens = (torch.randint(0, 9, (4, 3)), torch.tensor([0, 1, 0, 1]), torch.ones(3))
    with pytest.raises(InvalidInputError, match="changes numbers, and tokens have none; use Counterexamples"):
        PGDEx().loss(embed, tokens)

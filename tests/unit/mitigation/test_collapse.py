"""A training that ends with one class for everything says so, with the figure."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from xaikit.mitigation import RRR, Counterexamples

X, Y = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2


def fit(mitigator, model, y, mask):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mitigator.set_kwargs(n_epochs=3, batch_size=16, random_state=0).fit(model, X, y, mask, progress=False)
    return [str(w.message) for w in caught if "collapsed" in str(w.message)]


class Sinking(nn.Module):
    """Right at first; its bias towards class 0 grows with every pass in training mode."""

    def __init__(self):
        super().__init__()
        self.scale, self.passes = nn.Parameter(torch.ones(())), 0

    def forward(self, x):
        self.passes += self.training
        return self.scale * torch.stack([0.1 * max(0, self.passes - 4) ** 3 - x[:, 0], x[:, 0]], 1)


def test_a_collapse_is_told_once_with_the_figure():
    said = fit(Counterexamples(lr=1e-6), Sinking(), Y, torch.tensor([0, 0, 0, 1.0]))
    assert len(said) == 1
    assert "100.0 % of the predictions of its last epoch are class 0, and 50.0 % of the samples" in said[0]
    assert "a smaller lambda_ce (now 1) or a smaller lr (now 1e-06)" in said[0]


def test_a_model_that_was_like_that_before_is_no_collapse():
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([50.0, -50.0]))
    assert not fit(Counterexamples(lr=1e-6), model, Y, torch.tensor([1.0, 0, 0, 0]))


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_samples_of_one_class_are_no_collapse(share):
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([50.0, -50.0]))
    assert not fit(RRR(lr=1e-6), model, (torch.arange(64) < 64 * share).long(), torch.tensor([1.0, 0, 0, 0]))


def test_a_model_that_tells_the_classes_is_no_collapse():
    torch.manual_seed(0)
    y = (X[:, 1] > 0).long()
    assert not fit(Counterexamples(lr=0.1), nn.Linear(4, 2), y, torch.tensor([1.0, 0, 0, 0]))
    regression = RRR(lr=1e-3)
    assert not fit(regression, nn.Linear(4, 1), torch.rand(64), torch.tensor([1.0, 0, 0, 0]))

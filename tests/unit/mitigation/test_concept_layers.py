"""Which layer holds a concept: measured on the other half of the samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.mitigation import RRClArC, concept_layers
from xaikit.mitigation.concept_layers import _area_under_curve

SHOWS = np.arange(80) % 4 == 0
X = np.random.default_rng(0).normal(size=(80, 4)).astype("float32")
X[:, 2] += 6 * SHOWS


class TwoWays(nn.Module):
    """The concept is in the last two columns, which `left` does not see; `idle` sees it, and nothing reads it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.idle = nn.Linear(2, 3), nn.Linear(2, 3), nn.Linear(2, 3)
        self.out = nn.Linear(6, 2)
        with torch.no_grad():
            self.idle.weight.copy_(self.right.weight)
            self.right.bias.zero_()
            self.out.weight.zero_()
            self.out.weight[1, 3:] = self.right.weight[:, 0]
            self.out.bias.copy_(3 * torch.tensor([1.0, 0.0]) * self.right.weight[:, 0].square().sum())

    def forward(self, x):
        self.idle(x[:, 2:])
        return self.out(torch.cat([self.left(x[:, :2]), self.right(x[:, 2:])], 1))


def test_the_layer_that_holds_it_and_is_read_comes_first():
    model = TwoWays()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = {row.layer: row for row in concept_layers(model, X, SHOWS)}
    assert set(rows) == {"left", "right", "idle", "out"}
    assert rows["right"].separation > 0.95 > rows["left"].separation
    assert rows["right"].separation == pytest.approx(rows["idle"].separation)
    assert rows["idle"].changed == 0 < rows["right"].changed
    names = list(rows)
    assert names.index("right") < names.index("idle") < names.index("left")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    loss = RRClArC(concept=rows["right"].concept).loss(model, (X[:8], [0, 1] * 4))
    assert loss.penalty.isfinite()


def test_the_area_is_that_of_scikit_learn():
    scores = torch.tensor([0.1, 0.4, 0.4, 0.8, 0.2, 0.4, 0.9, 0.3])
    shows = torch.tensor([0, 1, 0, 1, 0, 0, 1, 1]).bool()
    assert _area_under_curve(scores, shows) == pytest.approx(roc_auc_score(shows, scores))


def test_wrong_calls():
    with pytest.raises(InvalidInputError, match="two samples that show the concept and two that do not, got 1 that do"):
        concept_layers(TwoWays(), X, [True] + [False] * 79)
    with pytest.raises(InvalidInputError, match="same activations"):
        concept_layers(TwoWays(), np.ones_like(X), SHOWS, layers=["left"])
    with pytest.raises(InvalidInputError, match="no layer of the model can hold the concept.*same activations"):
        concept_layers(TwoWays(), np.ones_like(X), SHOWS)

"""Data that cannot be right: one sentence, before the first step where possible, and the model as it was found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.mask_shapes import fit_masks
from xaikit.explainers import Gradient
from xaikit.mitigation import RRR


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.norm, self.head = nn.Embedding(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.norm(torch.tanh(self.embedding(tokens)).mean(1)))


def conv_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def data(n=6):
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 3


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, before):
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("bad", ["nan", "mask", "label"])
def test_a_bad_batch_leaves_the_running_statistics(bad):
    model, (x, y), mask = conv_net(), data(), torch.ones(6, 6)
    batch = {"nan": (x * torch.nan, y, mask), "mask": (x, y, mask * 3), "label": (x, y + 3, mask)}[bad]
    before = state(model)
    with pytest.raises(InvalidInputError):
        RRR().loss(model, batch)
    assert same(model, before)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"shortcut_masks": torch.ones(6, 3, 6, 6)}, InvalidInputError, "masks must have shape"),
        ({"labels": "abc"}, InvalidTypeError, "labels must hold numbers, got strings such as 'abc'"),
        ({"data": torch.ones(6, 1, 6, 6).long()}, InvalidTypeError, "fails on torch.int64 inputs; pass inputs.to"),
        ({"checkpoint": 3}, InvalidTypeError, "checkpoint must be the path of a file"),
        ({"checkpoint": "no/such/folder/a.pt"}, InvalidInputError, "no folder"),
    ],
)
def test_told_before_the_first_step(change, error, words):
    model, (x, y) = conv_net(), data()
    before, given = state(model), {"data": x, "labels": y, "shortcut_masks": torch.ones(6, 6), **change}
    with pytest.raises(error, match=words):
        RRR().fit(model, **given, progress=False)
    assert same(model, before)


@pytest.mark.parametrize("shape", [(5,), (6, 5), (6, 5, 8)])
def test_a_mask_over_tokens_masks_whole_embeddings(shape):
    torch.manual_seed(0)
    model, tokens, y = Text().eval(), torch.randint(0, 20, (6, 5)), torch.arange(6) % 3
    mitigator = RRR(explainer=Gradient(layer="embedding"), n_epochs=1)
    mask = torch.zeros(6, 5, 8)
    mask[:, :2] = 1
    given = {(5,): mask[0, :, 0], (6, 5): mask[..., 0], (6, 5, 8): mask}[shape]
    expected = mitigator.loss(model, (tokens, y, mask)).penalty
    assert expected > 0
    assert mitigator.loss(model, (tokens, y, given)).penalty == expected
    mitigator.fit(model, tokens, y, given, progress=False)


def test_a_mask_over_tokens_is_never_resized():
    attribution, tokens = torch.rand(6, 5, 8), torch.zeros(6, 5).long()
    with pytest.raises(InvalidInputError, match=r"shape \(5,\) for all samples or \(6, 5\), N = 6; got \(6, 7\)"):
        fit_masks(torch.ones(7), (attribution,), (tokens,))

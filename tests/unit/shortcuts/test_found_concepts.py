"""Concepts by factorisation: planted patterns are found, and what each does for the score by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.mitigation import RRClArC
from xaikit.shortcuts import FoundConcepts, find_concepts

OPTIONS = {"n_concepts": 2, "progress": False}


class Planted(nn.Module):
    """Each position of `layer` is a sum of two patterns of six channels, as much of each as the input says."""

    def __init__(self, *, last=False):
        super().__init__()
        patterns = torch.tensor([[3.0, 0, 4, 0, 0, 0], [0, 1.0, 0, 1, 1, 1]])
        self.mix = nn.Conv2d(2, 6, 1, bias=False)
        self.mix.weight.data = patterns.T[..., None, None].clone()
        self.layer, self.head, self.last = nn.ReLU(), nn.Linear(6, 3), last

    def forward(self, x):
        a = self.mix(x)
        a = self.layer(a.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.last else self.layer(a)
        return {"logits": self.head(a.mean((2, 3)))}


@pytest.fixture
def case():
    torch.manual_seed(0)
    x = torch.rand(40, 2, 5, 7) * (torch.rand(40, 2, 5, 7) < 0.5)
    x[::2, 1] *= 0.1
    return Planted(), x, torch.arange(40) % 3


@pytest.mark.parametrize("last", [False, True])
def test_planted_patterns_and_their_effects_are_found(case, last):
    model, x, y = case
    model.last = last
    found = find_concepts(model, (x, y), layer="layer", channel_axis=-1 if last else None, **OPTIONS)
    planted = torch.tensor([[0.6, 0, 0.8, 0, 0, 0], [0, 0.5, 0, 0.5, 0.5, 0.5]])
    order = (found.directions @ planted.T).argmax(1)
    assert order.sort().values.tolist() == [0, 1]
    assert torch.allclose(found.directions, planted[order], atol=2e-3)
    assert found.error < 1e-3
    strengths = torch.stack([x[:, 0].mean((1, 2)) * 5, x[:, 1].mean((1, 2)) * 2], 1)[:, order]
    assert torch.allclose(found.strengths, strengths, atol=5e-3)
    # The head is linear, so a concept's drop is its part times the weights of the class.
    drops = strengths * (model.head.weight[y] @ planted[order].T).detach()
    assert torch.allclose(found.drops, drops.mean(0), atol=2e-3)
    assert torch.allclose(found.sizes, drops.abs().mean(0), atol=2e-3)
    assert found.sizes[0] >= found.sizes[1]
    for k in range(2):
        assert set(found.samples[k].tolist()) == set(strengths[:, k].argsort(descending=True)[:6].tolist())
    assert found.pictures.shape == (2, 6, 2, 2, 2)
    assert found.maps.shape == (2, 6, 2, 2)


def test_forms_of_data_and_what_stays_as_it_was(case):
    model, x, y = case
    model.train()
    state = copy.deepcopy(model.state_dict())
    expected = find_concepts(model, (x, y), layer="layer", **OPTIONS)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 32)
    for data in ((x.numpy(), y.numpy()), loader):
        assert torch.equal(find_concepts(model, data, layer=model.layer, **OPTIONS).drops, expected.drops)
    assert model.training
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))
    one = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    table = find_concepts(one, (torch.rand(30, 4), None), layer="1", **OPTIONS)
    assert table.pictures is None
    assert table.strengths.shape == (30, 2)
    assert len(table.to_pandas()) == 12
    with pytest.raises(InvalidInputError, match="are no pictures; to_pandas"):
        table.plot()


def test_a_mitigator_takes_what_was_found(case):
    model, x, y = case
    found = find_concepts(model, (x, y), layer="layer", **OPTIONS)
    concept = found.concept(1)
    strong = found.strengths[:, 1] > found.strengths[:, 1].median()
    means = torch.relu(model.mix(x)).mean((2, 3))
    assert torch.allclose(concept.present, means[strong].mean(0), atol=1e-5)
    assert torch.allclose(concept.absent, means[~strong].mean(0), atol=1e-5)
    assert concept.channel_axis == 1
    RRClArC(concept=concept, n_epochs=1).fit(model, x, y, progress=False)
    with pytest.raises(InvalidInputError, match="number must be >= 0 and <= 1, got 2"):
        found.concept(2)


def test_it_is_kept_and_drawn(case, tmp_path):
    model, x, y = case
    found = find_concepts(model, (x, y), layer="layer", **OPTIONS)
    found.save(tmp_path / "found.npz")
    again = FoundConcepts.load(tmp_path / "found.npz")
    assert torch.equal(again.maps, found.maps)
    found.plot().savefig(tmp_path / "found.png")
    assert repr(again) == "FoundConcepts(layer: 2 concepts, 40 samples)"


def test_what_cannot_be_right(case):
    model, x, y = case
    with pytest.raises(InvalidTypeError, match="find_concepts needs layer="):
        find_concepts(model, (x, y), **OPTIONS)
    with pytest.raises(UnknownNameError, match="no layer 'leyer'; did you mean 'layer'"):
        find_concepts(model, (x, y), layer="leyer", **OPTIONS)
    with pytest.raises(InvalidTypeError, match="an iterator can be read once"):
        find_concepts(model, iter([(x, y)]), layer="layer", **OPTIONS)
    shuffled = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 8, shuffle=True)
    with pytest.raises(InvalidInputError, match="pass shuffle=False"):
        find_concepts(model, shuffled, layer="layer", **OPTIONS)
    with pytest.raises(InvalidInputError, match="n_concepts must be at most 6, as layer 'layer' has 6 channels"):
        find_concepts(model, (x, y), layer="layer", n_concepts=7, progress=False)
    with pytest.raises(InvalidInputError, match="returns 0 everywhere"):
        find_concepts(model, (0 * x, y), layer="layer", **OPTIONS)
    with pytest.raises(InvalidInputError, match="name a layer behind a ReLU"):
        find_concepts(model, (-x, y), layer="mix", **OPTIONS)
    with pytest.raises(InvalidInputError, match="after the first, got 0"):
        find_concepts(model, (x, y), layer="layer", channel_axis=0, **OPTIONS)
    same = find_concepts(model, (np.ones((8, 2, 5, 7), np.float32), 0), layer="layer", n_concepts=1, progress=False)
    with pytest.raises(InvalidInputError, match="concept 0 is equally strong in most samples"):
        same.concept(0)

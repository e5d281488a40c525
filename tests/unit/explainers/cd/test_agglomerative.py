"""Hierarchies of groups: joined where the model joins them, down to one, and drawn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.explainers.cd import AgglomerativeDecomposition, ContextualDecomposition


def net():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)).double()


def test_the_pair_that_interacts_most_is_joined_first():
    model, image = net(), torch.rand(1, 1, 4, 4, dtype=torch.float64)
    explainer = AgglomerativeDecomposition(model, feature_mask="grid:n_patches=2", joined=0.01)
    hierarchy = explainer.hierarchy(image, 0)
    patches = [hierarchy.ids[0, 0] == i for i in range(4)]
    sets = [(0,), (1,), (2,), (3,), (0, 1), (0, 2), (1, 3), (2, 3)]
    masks = torch.stack([sum(patches[i] for i in group) for group in sets]).double()
    scores = dict(zip(sets, explainer.decompose(image, masks).relevant[:, 0, 0].tolist(), strict=True))
    interaction = {pair: scores[pair] - scores[pair[:1]] - scores[pair[1:]] for pair in sets[4:]}
    strongest = max(interaction, key=lambda pair: abs(interaction[pair]))
    first = hierarchy.joins[0]
    assert sorted(first.members[0] | first.members[1]) == list(strongest)
    assert first.interaction == pytest.approx(interaction[strongest], abs=1e-9)
    assert len(hierarchy.joins) == 3
    assert hierarchy.ids.shape == (4, 1, 4, 4)
    assert hierarchy.scores[-1, 0, 0, 0].item() == pytest.approx(model(image)[0, 0].item(), abs=1e-6)


def test_scores_are_those_of_the_decomposition():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2))
    image = torch.rand(1, 1, 8, 8)
    hierarchy = AgglomerativeDecomposition(model, feature_mask="grid:n_patches=4").hierarchy(image, 1)
    level = len(hierarchy.ids) // 2
    mask = (hierarchy.ids[level] == hierarchy.ids[level, 0, 0, 0]).float()
    found = ContextualDecomposition(model).decompose(image, mask[None])
    assert torch.allclose(hierarchy.scores[level, 0, 0, 0], found.relevant[0, 0, 1], atol=1e-5)
    assert hierarchy.ids[-1].unique().numel() == 1


def test_a_sentence_and_its_picture():
    pytest.importorskip("matplotlib")
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 2))
    hierarchy = AgglomerativeDecomposition(model).hierarchy(torch.tensor([[1, 2, 3, 4, 5]]), 0)
    assert all(len(a | b) == max(a | b) - min(a | b) + 1 for a, b in (join.members for join in hierarchy.joins))
    figure = hierarchy.plot(tokens=["not", "a", "bad", "film", "."])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][2] == "bad"
    with pytest.raises(InvalidInputError, match="5 tokens"):
        hierarchy.plot(tokens=["not"])


def test_an_image_and_its_picture(tmp_path):
    pytest.importorskip("matplotlib")
    image = torch.rand(1, 1, 4, 4, dtype=torch.float64)
    explainer = AgglomerativeDecomposition(net(), feature_mask="grid:n_patches=2")
    explainer.hierarchy(image, 0).plot(image).savefig(tmp_path / "hierarchy.png")
    assert (tmp_path / "hierarchy.png").stat().st_size > 1000


def test_one_sample_at_a_time():
    with pytest.raises(InvalidInputError, match=r"got \(2, 1, 4, 4\)"):
        AgglomerativeDecomposition(net()).hierarchy(torch.rand(2, 1, 4, 4), 0)

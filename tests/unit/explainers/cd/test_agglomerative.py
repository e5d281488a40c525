"""Hierarchies of groups: joined where the model joins them, down to one, and drawn."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.explainers.cd import AgglomerativeDecomposition, ContextualDecomposition


def net():
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)).double()


def test_the_published_procedure():
    """Algorithm 1 step by step: the strongest feature, then what gains most beside the groups."""
    model, image = net(), torch.rand(1, 1, 4, 4, dtype=torch.float64)
    explainer = AgglomerativeDecomposition(model, feature_mask="grid:n_patches=2", percentile=99)
    hierarchy = explainer.hierarchy(image, 0)
    patches = [hierarchy.ids[0, 0] == i for i in range(4)]

    def cd(group):
        mask = sum(patches[i] for i in group).double()
        return explainer.decompose(image, mask[None]).relevant[0, 0, 0].item()

    beside = {0: (1, 2), 1: (0, 3), 2: (0, 3), 3: (1, 2)}
    priority = {i: abs(cd([i])) for i in range(4)}
    taken, groups = [], []
    for level in range(1, 5):
        taken.append(max(priority, key=priority.get))
        del priority[taken[-1]]
        touched = [g for g in groups if any(j in beside[taken[-1]] for j in g)]
        groups = [g for g in groups if g not in touched] + [frozenset({taken[-1]}.union(*touched))]
        assert all(bool(hierarchy.selected[level, 0][patches[i]].all()) is (i in taken) for i in range(4))
        for group in groups:
            assert hierarchy.scores[level, 0][patches[min(group)]][0].item() == pytest.approx(cd(group), abs=1e-6)
        for i, before in list(priority.items()):
            gains = [abs(cd([*g, i]) - cd(g)) for g in groups if any(j in beside[i] for j in g)]
            priority[i] = max(gains) if gains else before
    assert len(hierarchy.ids) == 5
    assert hierarchy.scores[-1, 0, 0, 0].item() == pytest.approx(model(image)[0, 0].item(), abs=1e-6)
    last = hierarchy.joins[-1]
    assert last.members[0] | last.members[1] == {0, 1, 2, 3}
    assert last.interaction == pytest.approx(last.score - sum(cd(group) for group in last.members), abs=1e-6)


def test_groups_that_do_not_touch_are_joined_by_what_they_gain():
    image, ids = torch.rand(1, 1, 1, 7, dtype=torch.float64), torch.tensor([[0, 3, 1, 3, 2, 3, 0]])
    model = nn.Sequential(nn.Flatten(), nn.Linear(7, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    explainer = AgglomerativeDecomposition(model, feature_mask=ids[None], percentile=0)
    hierarchy = explainer.hierarchy(image, 1)
    assert hierarchy.ids[-1].unique().numel() == 1
    parted = AgglomerativeDecomposition(model, feature_mask=torch.tensor([[[0, 0, 0, 0, 0, 0, 0]]]))
    assert len(parted.hierarchy(image, 1).ids) == 1


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
    joint = [frozenset().union(*join.members) for join in hierarchy.joins]
    assert all(len(group) == max(group) - min(group) + 1 for group in joint)  # words that follow each other
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

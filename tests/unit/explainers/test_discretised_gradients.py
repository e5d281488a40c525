"""Discretised integrated gradients against the published algorithm, written as plain loops over words."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import EXPLAINERS, IntegratedGradients
from xaikit.core.errors import InvalidInputError, NotDifferentiableError
from xaikit.explainers import DiscretisedIntegratedGradients

STEPS, NEIGHBORS = 6, 5


class Reader(nn.Module):
    """A small classifier of texts."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 4)
        self.hidden = nn.Linear(4, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(self.embed(ids))).mean(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Reader().double()


IDS = torch.tensor([[3, 7, 1], [4, 4, 9]])


def between(word, start, end):
    return np.array([min(s, e) <= w <= max(s, e) for w, s, e in zip(word, start, end, strict=True)])


def moved(word, start, end):
    return np.where(between(word, start, end), word, start - (start - end) / STEPS)


def path_of(token: int, words: np.ndarray, end: np.ndarray, strategy: str) -> list[np.ndarray]:
    """From a word to the baseline, one anchor after the other."""
    visited, points = [token], [words[token]]
    for _ in range(STEPS - 1):
        last = visited[-1]
        order = sorted(range(len(words)), key=lambda j: np.linalg.norm(words[j] - words[last]))[1 : NEIGHBORS + 1]
        costs = {}
        for j in order:
            if j in visited or np.array_equal(words[j], end):
                continue
            if strategy == "greedy":
                costs[j] = np.linalg.norm(words[j] - moved(words[j], words[last], end))
            else:
                costs[j] = (~between(words[j], words[last], end)).sum()
        if not costs:
            points.append(points[-1] - (points[-1] - end) / STEPS)
            continue
        visited.append(min(costs, key=costs.get))
        points.append(moved(words[visited[-1]], points[-1], end))
    return [*points, end]


@pytest.mark.parametrize("strategy", ["greedy", "maxcount"])
@pytest.mark.parametrize("baseline", ["zeros", "token_id:token=2"])
def test_the_published_algorithm(model, strategy, baseline):
    words = model.embed.weight.detach().numpy()
    end = np.zeros(4) if baseline == "zeros" else words[2]
    paths = np.array(
        [[path_of(t, words, end, strategy)[::-1] for t in text] for text in IDS.tolist()]
    )  # (N, T, m+1, D)
    expected = np.zeros((2, 3, 4))
    for k in range(STEPS):
        point = torch.tensor(paths[:, :, k], requires_grad=True)
        score = model.head(torch.tanh(model.hidden(point)).mean(1))[:, 1].sum()
        expected += torch.autograd.grad(score, point)[0].numpy() * (paths[:, :, k + 1] - paths[:, :, k])
    settings = {"layer": "embed", "n_steps": STEPS, "n_neighbors": NEIGHBORS, "strategy": strategy}
    explainer = DiscretisedIntegratedGradients(model, baseline=baseline, **settings)
    assert np.allclose(explainer.attribute(IDS, 1), expected, atol=1e-12)
    assert np.allclose(explainer.set_kwargs(max_rows=3).attribute(IDS, 1), expected, atol=1e-12)
    assert np.allclose(explainer.attribute(IDS[1:], 1), expected[1:], atol=1e-12)


def test_a_path_never_turns_back(model):
    """Each dimension goes one way from the baseline to the word."""
    explainer = DiscretisedIntegratedGradients(model, layer="embed", n_steps=12)
    words = model.embed.weight.detach()
    points = explainer._word_path(words, torch.zeros_like(words), words)
    steps = points.diff(dim=0)
    assert bool((steps * -words.sign() >= -1e-15).all())
    assert torch.equal(points[0], words)
    assert not points[-1].any()


def test_a_sum_that_misses_the_score_is_told(model):
    with torch.no_grad():
        model.embed.weight.mul_(8)  # a single step is too long
    explainer = DiscretisedIntegratedGradients(model, layer="embed", n_steps=1)
    with pytest.warns(UserWarning, match=r"misses the explained score by .* more than the tolerance of 50 %"):
        result = explainer.explain(IDS, 1)
    with torch.no_grad():
        empty = model.head(torch.tanh(model.hidden(torch.zeros(2, 3, 4, dtype=torch.float64))).mean(1))[:, 1]
        missing = result.values.sum((1, 2)) - (model(IDS)[:, 1] - empty)
    assert torch.allclose(result.gap, missing.abs())


def test_without_words_it_is_the_straight_line(model):
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.rand(3, 4, dtype=torch.float64)
    fine = DiscretisedIntegratedGradients(net, n_steps=2000).attribute(x, 1)
    assert torch.allclose(fine, IntegratedGradients(net, n_steps=50).attribute(x, 1), atol=1e-3)


def test_wrong_calls(model):
    with pytest.raises(InvalidInputError, match=r"layer 'hidden' is no nn\.Embedding; name one with layer=, of \['emb"):
        DiscretisedIntegratedGradients(model, layer="hidden").attribute(IDS, 1)
    with pytest.raises(InvalidInputError, match="strategy is greedy or maxcount, got 'greed'"):
        EXPLAINERS.create("discretised_integrated_gradients:strategy=greed")
    with pytest.raises(NotDifferentiableError, match="has no exact derivative"):
        DiscretisedIntegratedGradients(model, layer="embed").attribute(IDS, 1, create_graph=True)


@pytest.mark.parametrize("strategy", ["greedy", "maxcount"])
def test_half_precision_goes_the_same_way(model, strategy):
    """The words on the path are chosen in single precision, where torch has distances."""
    coarse = model.bfloat16()
    exact = DiscretisedIntegratedGradients(Reader(), layer="embed", strategy=strategy)
    exact.model.load_state_dict(coarse.state_dict())
    half = DiscretisedIntegratedGradients(coarse, layer="embed", strategy=strategy).attribute(IDS, 1)
    assert half.dtype == torch.bfloat16
    expected = exact.attribute(IDS, 1)
    assert (half - expected).abs().max() < 0.05 * expected.abs().max()


def test_zeros_under_rms_norm_are_told_with_a_remedy():
    """Its gradient at zeros is 1 / sqrt(eps), and the path begins there; a word lies where it is moderate."""

    class Normed(Reader):
        def forward(self, ids):
            return self.head(torch.tanh(self.hidden(nn.functional.rms_norm(self.embed(ids), (4,), eps=1e-6))).mean(1))

    torch.manual_seed(0)
    normed = Normed().double()
    explainer = DiscretisedIntegratedGradients(normed, layer="embed")
    with pytest.warns(UserWarning, match=r"tolerance of 50 %; where the model normalises .* baseline='token_id:token="):
        zeros = explainer.explain(IDS, 1)
    word = explainer.set_kwargs(baseline="token_id:token=0").explain(IDS, 1)  # a warning would be an error
    assert word.gap.max() < 0.02 * zeros.gap.max()

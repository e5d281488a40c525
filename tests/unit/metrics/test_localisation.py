"""The metrics of localisation against Quantus, scikit-learn and by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers import Gradient, GradientXInput
from xaikit.metrics import AUC, PointingGame, RelevanceMass, RelevanceRank, TopKIntersection
from xaikit.metrics.localisation import share_of_top

PEERS = [
    (PointingGame(), "PointingGame", {}),
    (RelevanceMass(), "RelevanceMassAccuracy", {}),
    (RelevanceRank(), "RelevanceRankAccuracy", {}),
    (AUC(), "AUC", {}),
    (TopKIntersection(k=7), "TopKIntersection", {"k": 7}),
]


@pytest.fixture
def case():
    model = nn.Sequential(nn.Flatten(), nn.Linear(30, 2)).double()
    masks = (torch.rand(8, 1, 5, 6) > 0.6).double()
    return model, torch.randn(8, 1, 5, 6).double(), torch.rand(8, 1, 5, 6).double(), masks


@pytest.mark.parametrize(("ours", "theirs", "options"), PEERS, ids=lambda v: v if isinstance(v, str) else "")
def test_equal_to_quantus(quantus, case, ours, theirs, options):
    model, x, a, masks = case
    y = torch.zeros(8, dtype=torch.long)
    expected = quantus.metric(theirs, model, x, y, a, **options, call={"s_batch": masks.numpy()})
    assert np.allclose(ours.evaluate(Gradient(model), x, y, a, relevant_region=masks), np.array(expected, dtype=float))


def test_auc_equals_scikit_learn_with_ties(case):
    model, x, a, masks = case
    a = (4 * a).round()
    expected = [roc_auc_score(m.flatten(), v.flatten()) for m, v in zip(masks, a, strict=True)]
    assert np.allclose(AUC().evaluate(Gradient(model), x, 0, a, relevant_region=masks), expected)


def test_mass_counts_positive_relevance_only():
    model, x = nn.Linear(4, 1), torch.rand(2, 4)
    a, mask = torch.tensor([[3.0, -5.0, 1.0, 0.0], [-1.0, -1.0, -2.0, 0.0]]), torch.tensor([1, 1, 0, 0])
    found = RelevanceMass().evaluate(Gradient(model), x, None, a, relevant_region=mask)
    assert found[0] == 0.75
    assert found[1].isnan()


def test_channels_are_pooled_unless_told_otherwise():
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(8, 1)), torch.rand(1, 2, 2, 2)
    a = torch.tensor([[[[5.0, 0.0], [0.0, 3.0]], [[-5.0, 0.0], [0.0, 0.0]]]])
    mask = torch.tensor([[[0, 0], [0, 1]]])
    explainer = Gradient(model)
    assert PointingGame().evaluate(explainer, x, None, a, relevant_region=mask) == 1  # the sum at the first place is 0
    assert PointingGame(pooling="maxnorm").evaluate(explainer, x, None, a, relevant_region=mask) == 0
    assert PointingGame(pooling="none").evaluate(explainer, x, None, a, relevant_region=mask) == 0


def test_a_full_mask_has_no_outside(case):
    model, x, a, masks = case
    full = torch.ones_like(masks)
    assert AUC().evaluate(Gradient(model), x, 0, a, relevant_region=full).isnan().all()
    assert torch.equal(PointingGame().evaluate(Gradient(model), x, 0, a, relevant_region=full), torch.ones(8).double())


def test_more_places_asked_for_than_there_are(case):
    model, x, a, masks = case
    with pytest.warns(UserWarning, match="k=1000 looks at all"):
        found = TopKIntersection(k=1000).evaluate(Gradient(model), x, 0, a, relevant_region=masks)
    assert torch.allclose(found, masks.flatten(1).mean(1))


def test_a_mask_of_tokens_at_their_embedding():
    model = nn.Sequential(nn.Embedding(9, 3), nn.Flatten(), nn.Linear(12, 2))
    tokens, mask = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]]), torch.tensor([[1, 0, 0, 0], [0, 0, 1, 0]])
    explainer = GradientXInput(model, layer="0")
    relevance = explainer.attribute(tokens, 1).sum(2)
    expected = (relevance.argmax(1) == torch.tensor([0, 2])).float()
    for metric in (PointingGame(channel_axis=-1), PointingGame()):
        assert torch.equal(metric.evaluate(explainer, tokens, 1, relevant_region=mask), expected)
    # Attributions that are pooled already tell their channel axis.
    pooled = PointingGame().evaluate(explainer, tokens, 1, relevance[..., None], relevant_region=mask)
    assert torch.equal(pooled, expected)


def test_masks_for_other_samples(case):
    model, x, a, masks = case
    with pytest.raises(
        InvalidInputError, match=r"relevant_region must have shape \(5, 6\) for all samples, .*got \(7, 1, 5, 6\)"
    ):
        AUC().evaluate(Gradient(model), x, 0, a, relevant_region=masks[:7])
    with pytest.raises(
        InvalidInputError,
        match="one for each input of the model, and there is one|one mask per explained input, 1, got 2",
    ):
        AUC().evaluate(Gradient(model), x, 0, a, relevant_region=(masks, masks))


def superpixel(metric, flip):
    """The metric of a square of equal relevance, half of it in the region; with `flip` all stands upside down."""
    a, region = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4)
    a[..., :2, :2], region[:, 0, :2] = 1, 1
    a, region = (a.flip(2), region.flip(1)) if flip else (a, region)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    return metric.evaluate(Gradient(model), torch.rand(1, 1, 4, 4), 0, a, relevant_region=region)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (PointingGame(), 1 / 2),  # two of the four places that share the maximum
        (RelevanceRank(), 1 / 2),  # the two highest are two of these four
        (TopKIntersection(k=3), 1 / 2),
        (TopKIntersection(k=4), 1 / 2),
        (TopKIntersection(k=10), (2 + 0) / 10),  # the four, and six of twelve zeros, all outside
    ],
)
def test_equal_relevance_shares_the_hit_wherever_it_lies_in_memory(metric, expected, flip):
    assert superpixel(metric, flip).item() == pytest.approx(expected)


def test_shares_of_the_top_are_the_mean_over_all_orders_of_equal_values():
    values = torch.tensor([[2.0, 1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 3.0, 3.0, 3.0]])
    inside = torch.tensor([[True, True, False, False, True], [False, True, True, False, True]])
    for k in range(1, 6):
        orders = []
        for tiebreak in itertools.permutations(range(5)):
            top = [sorted(range(5), key=lambda i, row=row: (-row[i], tiebreak[i]))[:k] for row in values.tolist()]  # noqa: B023
            orders.append([inside[n, t].double().mean() for n, t in enumerate(top)])
        expected = torch.tensor(orders).mean(0)
        assert torch.allclose(share_of_top(values, inside, torch.tensor([k, k])).double(), expected, atol=1e-6)


def test_the_old_name_of_the_region_is_refused_with_the_new_one():
    with pytest.raises(InvalidTypeError, match="no argument 'masks' any more; it is called 'relevant_region' now"):
        AUC().evaluate(Gradient(nn.Linear(3, 1)), torch.rand(1, 3), masks=torch.ones(3))

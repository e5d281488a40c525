"""Counterexamples: what is drawn anew, what stays, and what is refused; masks that cannot be meant."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import HINT, RRR, Counterexamples


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).double()
    x, mask = torch.randn(6, 2, 4, 4).double(), torch.zeros(6, 4, 4).double()
    mask[:, :2] = 1
    return model, x, torch.arange(6) % 3, mask


def seen(mitigator, model, x, y, mask, seed=0):
    """The changed samples that the model gets in addition to the originals."""
    given = []
    handle = model.register_forward_pre_hook(lambda _m, args: given.append(args[0].clone()))
    loss = mitigator.loss(model, (x, y, mask), seed=seed)
    handle.remove()
    assert torch.equal(given[0], x)
    assert len(given) == 2
    with torch.no_grad():
        assert torch.allclose(loss.penalty, F.cross_entropy(model(given[1]), y))
    return given[1]


@pytest.mark.parametrize("fill", ["permute", "uniform", "noise", "colour"])
def test_only_the_region_is_drawn_anew(case, fill):
    model, x, y, mask = case
    found = seen(Counterexamples(fill=fill), model, x, y, mask)
    assert torch.equal(found[:, :, 2:], x[:, :, 2:])
    assert not torch.equal(found[:, :, :2], x[:, :, :2])
    assert torch.equal(found, seen(Counterexamples(fill=fill), model, x, y, mask))
    assert not torch.equal(found, seen(Counterexamples(fill=fill), model, x, y, mask, seed=1))
    region = found[:, :, :2]
    if fill == "permute":
        assert torch.equal(region.flatten(1).sort(0).values, x[:, :, :2].flatten(1).sort(0).values)
    elif fill == "colour":
        assert torch.equal(region, region[:, :, :1, :1].expand_as(region))
    if fill in ("uniform", "colour"):
        low, high = x.amin((0, 2, 3)), x.amax((0, 2, 3))
        assert bool((region >= low.view(-1, 1, 1)).all() and (region <= high.view(-1, 1, 1)).all())


def test_a_function_paints_what_it_likes(case):
    model, x, y, mask = case
    found = seen(Counterexamples(fill=lambda x, mask, _g: -x * mask), model, x, y, mask)
    assert torch.allclose(found, torch.where(mask[:, None] > 0, -x, x))
    half = seen(Counterexamples(fill=lambda x, _mask, _g: -x), model, x, y, mask * 0.5)
    assert torch.allclose(half, torch.where(mask[:, None] > 0, 0 * x, x))


def test_tokens_are_permuted_between_samples():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(20, 2))
    tokens, y, mask = torch.randint(0, 50, (6, 5)), torch.arange(6) % 2, torch.tensor([0.0, 1, 0, 0, 0])
    found = seen(Counterexamples(), model, tokens, y, mask)
    assert found.dtype == tokens.dtype
    assert torch.equal(found[:, [0, 2, 3, 4]], tokens[:, [0, 2, 3, 4]])
    assert sorted(found[:, 1].tolist()) == sorted(tokens[:, 1].tolist())
    with pytest.raises(InvalidInputError, match="makes no tokens of torch.int64; use fill='permute'"):
        Counterexamples(fill="noise").loss(model, (tokens, y, mask))


def test_refusals(case):
    model, x, y, mask = case
    with pytest.raises(InvalidInputError, match="must be one of 'permute', 'uniform', 'noise', 'colour' or a function"):
        Counterexamples(fill="grey")
    with pytest.raises(InvalidTypeError, match="or a function, got 3"):
        Counterexamples(fill=3)
    with pytest.raises(
        InvalidInputError, match=r"a fill function must return a tensor of shape \(6, 2, 4, 4\), got \(6, 2\)"
    ):
        Counterexamples(fill=lambda x, _m, _g: x.mean((2, 3))).loss(model, (x, y, mask))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (RRR, "the whole explanation is penalised"),
        (HINT, "no explanation lies outside it"),
        (Counterexamples, "the counterexamples hold nothing of the samples"),
    ],
)
def test_a_mask_that_covers_everything_is_told(case, make, words):
    model, x, y, mask = case
    with pytest.warns(UserWarning, match=f"the mask covers everything, so {words}"):
        make(n_epochs=1).fit(model, x, y, torch.ones_like(mask), progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RRR(n_epochs=1, what="chroma").fit(model, x, y, torch.ones_like(mask), progress=False)
    with pytest.warns(UserWarning, match=f"zero everywhere, so {make.EMPTY_MASK_WARNING}"):
        make(n_epochs=1).fit(model, x, y, mask * 0, progress=False)


def test_masked_tokens_get_masked_tokens_wherever_they_stand():
    """Each text has one of two words somewhere; a counterexample has one of these words in the same place."""
    model = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(20, 2))
    tokens, y = torch.arange(30).reshape(6, 5) + 10, torch.arange(6) % 2
    for row, place in enumerate((0, 3, 1, 4, 2)):
        tokens[row, place] = 3 + row % 2
    tokens[1, 1] = 5  # two words in one text; none in the last
    mask = torch.isin(tokens, torch.tensor([3, 4, 5])).float()
    found = seen(Counterexamples(), model, tokens, y, mask, seed=3)
    assert torch.equal(found[mask == 0], tokens[mask == 0])
    assert set(found[mask == 1].tolist()) <= {3, 4, 5}
    assert not torch.equal(found, tokens)
    assert torch.equal(found[5], tokens[5])

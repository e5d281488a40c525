"""Counterexamples: what is drawn anew, what stays, and what is refused; masks that cannot be meant."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.factors import DataFacts, Hue
from xaikit.mitigation import HINT, RRR, Counterexamples
from xaikit.mitigation.fills import balanced_donors


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
    with pytest.raises(InvalidInputError, match="must be one of 'permute', .* a factor such as 'hue', a mask"):
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


def coloured(n=8, seed=0):
    """Images whose whole picture is one hue, with its brightness from pixel to pixel."""
    generator = torch.Generator().manual_seed(seed)
    hues = torch.rand(n, 3, 1, 1, generator=generator)
    return hues * torch.rand(n, 1, 4, 4, generator=generator)


@pytest.mark.parametrize("fill", ["hue", Hue(), Hue, {"name": "hue", "settings": {}}])
def test_a_factor_is_exchanged_within_the_batch(fill):
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), coloured(), torch.arange(8) % 2
    given = []
    handle = model.register_forward_pre_hook(lambda _m, args: given.append(args[0].clone()))
    Counterexamples(fill=fill).loss(model, (x, y), seed=3)
    handle.remove()
    order = balanced_donors(y, x.device, torch.Generator().manual_seed(3))
    assert torch.allclose(given[1], Hue().exchange(x, x[order], facts=DataFacts.of(x)))
    assert torch.allclose(given[1].amax(1), x.amax(1), atol=1e-5)  # brightness stays
    assert not torch.allclose(given[1], x, atol=1e-2)


def test_words_are_exchanged_with_what_is_known_of_the_data():
    vocabulary = ["[PAD]", "text", "video", "good", "bad"]
    x = torch.tensor([[3, 1, 3, 0], [4, 4, 2, 0], [3, 3, 1, 4], [2, 4, 0, 0]])
    model, y = nn.Sequential(nn.Embedding(5, 3), nn.Flatten(), nn.Linear(12, 2)), torch.tensor([0, 1, 0, 1])
    given = []
    handle = model.register_forward_pre_hook(lambda _m, args: given.append(args[0].clone()))
    options = {"fill": "words:names=[text,video]", "facts": {"vocabulary": vocabulary, "padding": 0}}
    Counterexamples(**options).loss(model, (x, y), seed=1)
    handle.remove()
    order = balanced_donors(y, x.device, torch.Generator().manual_seed(1))
    told = (x == 1).any(1)[order]
    assert torch.equal((given[1] == 1).any(1), told)
    assert torch.equal((given[1] == 2).any(1), ~told)
    assert torch.equal(given[1] == 0, x == 0)


@pytest.mark.parametrize("counts", [(14, 2), (9, 4, 3), (7, 7, 1, 1), (16,)])
def test_every_class_lends_equally_often_to_every_sample(counts):
    y = torch.cat([torch.full((n,), 5 * c) for c, n in enumerate(counts)])[torch.randperm(16)]
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([balanced_donors(y, y.device, generator) for _ in range(3000)])
    classes = y.unique()
    lent = (y[draws][..., None] == classes).double()
    assert torch.allclose(lent.sum(1), torch.tensor(16 / len(classes)).double(), atol=1)  # in each batch, rounded
    assert torch.allclose(lent.mean(0), torch.tensor(1 / len(classes)).double(), atol=0.05)  # to each sample
    chances = (draws[..., None] == torch.arange(16)).double().mean((0, 1))
    expected = 1 / (len(classes) * (y[:, None] == y).sum(1))
    assert torch.allclose(chances, expected.double(), atol=0.01)


@pytest.mark.parametrize("y", [torch.arange(12) % 3, torch.arange(12) % 3 * 1.0, torch.zeros(12, 2).long()])
def test_of_equally_frequent_classes_and_of_none_each_sample_lends_once(y):
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        assert balanced_donors(y, y.device, generator).sort().values.tolist() == list(range(12))


def test_a_region_without_a_mask_of_its_own_takes_those_of_the_data(case):
    model, x, y, mask = case
    by_factor = seen(Counterexamples(fill="region"), model, x, y, mask)
    assert torch.equal(by_factor[:, :, 2:], x[:, :, 2:])
    assert torch.equal(by_factor[:, :, :2].flatten(1).sort(0).values, x[:, :, :2].flatten(1).sort(0).values)
    with pytest.raises(InvalidTypeError, match="must be told where"):
        Counterexamples(fill="region").loss(model, (x, y))
    assert Counterexamples(fill="corner").loss(model, (x, y)).total.isfinite()


def test_a_function_sees_the_model_and_the_labels(case):
    model, x, y, mask = case
    calls = []

    def fill(x, mask, generator, *, model, labels):
        calls.append((model, labels))
        assert isinstance(generator, torch.Generator)
        return x * (1 - mask)

    Counterexamples(fill=fill).loss(model, (x, y, mask))
    assert calls[0][0] is model
    assert torch.equal(calls[0][1], y)
    found = seen(Counterexamples(fill=fill), model, x, y, torch.ones(4, 4))
    assert not bool(found.any())


def test_fills_that_are_none():
    for fill, kind, sentence in (
        ("hues", InvalidInputError, "a factor such as 'hue', a mask, or a function, got 'hues'; did you mean 'hue'"),
        ("corners", InvalidInputError, "must be a single factor, and 'corners' stands for several"),
        (3, InvalidTypeError, "or a function, got 3"),
    ):
        with pytest.raises(kind, match=sentence):
            Counterexamples(fill=fill)
    with pytest.raises(InvalidTypeError, match="facts must be a dict"):
        Counterexamples(fill="hue", facts=3)
    with pytest.raises(InvalidInputError, match="is of image data, got tabular"):
        Counterexamples(fill="hue").loss(nn.Linear(4, 2), (torch.rand(4, 4), torch.tensor([0, 1, 0, 1])))


class Batches:
    """A loader whose batches are sorted by class, or mixed; each time the same."""

    def __init__(self, *, is_sorted: bool, size: int = 8):
        y = torch.arange(32) % 2
        order = y.argsort(stable=True) if is_sorted else torch.arange(32)
        x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
        self.batches = [(x[rows], y[rows]) for rows in order.split(size)]

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


MASK = torch.tensor([1.0, 0, 0, 0])


@pytest.mark.parametrize("fill", ["permute", "column:names=a"])
def test_batches_of_one_class_each_are_told(fill):
    mitigator = Counterexamples(fill=fill, facts={"columns": ["a", "b", "c", "d"]}, n_epochs=2, random_state=0)
    with pytest.warns(UserWarning, match="each of the 4 batches holds one class only.*shuffle=True") as caught:
        mitigator.fit(nn.Linear(4, 2), Batches(is_sorted=True), shortcut_masks=MASK, progress=False)
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("fill", "settings"),
    [("permute", {"is_sorted": False}), ("noise", {"is_sorted": True}), ("permute", {"is_sorted": True, "size": 4})],
)
def test_other_batches_are_not(fill, settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mitigator = Counterexamples(fill=fill, n_epochs=1, random_state=0)
        mitigator.fit(nn.Linear(4, 2), Batches(**settings), shortcut_masks=MASK, progress=False)

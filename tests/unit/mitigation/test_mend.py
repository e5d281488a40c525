"""Mending: planted shortcuts of every kind, from a fooled model and from scratch; what is told; what is refused."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.factors import Corner, Hue
from xaikit.mitigation import Concept, Counterexamples, MendResult, mend

MASK = torch.zeros(6, 6)
MASK[:2, :2] = 1
QUICK = {"progress": False, "n_epochs": 12}
ONE = {**QUICK, "methods": "counterexamples:lr=0.01"}  # where the choice among rates and methods is not looked at


def samples(n=600, seed=0, told=None):
    """Label 1: brighter below, in noise; the corner tells the label, or the classes `told`."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = 0.5 * torch.randn(n, 1, 6, 6, generator=generator)
    x[:, 0, 3:] += 0.3 * (2.0 * y - 1).view(-1, 1, 1)
    x[:, 0, :2, :2] = (4.0 * (y if told is None else told) - 2).view(-1, 1, 1)
    return x, y


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 16), nn.ReLU(), nn.Linear(16, 2))


@pytest.fixture(scope="module")
def fooled():
    model, (x, y) = net(), samples()
    Counterexamples(lambda_ce=0.0, lr=1e-2, n_epochs=12, batch_size=32, random_state=0).fit(
        model, x, y, MASK, progress=False
    )
    return model


def flipped(model, n=600):
    x, y = samples(n, seed=1, told=1 - torch.arange(n) % 2)
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


SHORTCUTS = {
    "mask": MASK,
    "array": MASK.numpy(),
    "list": MASK.tolist(),
    "spec": "corner:size=2",
    "factor": Corner(size=2),
}


@pytest.mark.parametrize("form", SHORTCUTS)
def test_a_fooled_model_is_mended(fooled, form):
    assert flipped(fooled) < 0.3
    weights = copy.deepcopy(fooled.state_dict())
    result = mend(fooled, samples(), SHORTCUTS[form], **ONE if form in ("array", "list") else QUICK)
    assert flipped(result.model) > 0.85
    assert result.before.relies
    assert not result.after.relies
    assert not result.relies
    assert result.verdict.startswith("does not rely on it any more: 90.8 % of predictions changed with the ")
    assert result.method.startswith("counterexamples:lr=0.0")
    assert result.tries[0].method == "unchanged"
    assert result.method in [row.method for row in result.tries[1:]]
    assert result.stopped == "done"
    for name, value in fooled.state_dict().items():
        assert torch.equal(value, weights[name])  # the user's model stays
    assert result.model is not fooled
    assert "* chosen" in repr(result)
    assert list(result.to_pandas()["method"]) == [row.method for row in result.tries]


@pytest.mark.nightly
def test_masks_of_each_sample_come_with_the_data(fooled):
    x, y = samples()
    masks = MASK.expand(len(y), 6, 6)
    data = {
        "tuple": (x, y, masks),
        "arrays": (x.numpy(), y.numpy(), masks.numpy()),
        "loader": DataLoader(TensorDataset(x, y, masks), batch_size=50),
        "data set": TensorDataset(x, y, masks),
    }
    results = {name: mend(fooled, value, "region", **ONE) for name, value in data.items()}
    assert len({result.verdict for result in results.values()}) == 1
    assert flipped(results["tuple"].model) > 0.85


@pytest.mark.parametrize("scratch", [pytest.param(True, marks=pytest.mark.nightly), net])
def test_from_scratch(fooled, scratch):
    settings = QUICK if scratch is True else ONE
    result = mend(fooled, samples(), MASK, from_scratch=scratch, **{**settings, "n_epochs": 30})
    assert flipped(result.model) > 0.8
    assert not result.relies


def test_a_model_that_does_not_rely_is_not_trained():
    x, y = samples()
    oracle = net()
    with torch.no_grad():
        oracle[1].weight[:, MASK.flatten() > 0] = 0  # it does not see the corner
    result = mend(oracle, (x, y), MASK, **QUICK)
    assert result.method == "unchanged"
    assert len(result.tries) == 1
    assert result.verdict.startswith("nothing to mend: ")
    assert all(torch.equal(a, b) for a, b in zip(result.model.parameters(), oracle.parameters(), strict=True))


@pytest.mark.nightly
def test_a_hue_a_word_a_column(fooled):  # noqa: ARG001
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(400) % 2
    grey = (0.3 + 0.2 * torch.rand(400, 1, 4, 4, generator=generator)) * (1 + y.view(-1, 1, 1, 1))
    colours = torch.tensor([[1.0, 0.2, 0.2], [0.2, 0.2, 1.0]])
    pictures = grey * colours[y].view(400, 3, 1, 1)

    likely = torch.rand(400, 5, generator=generator) < 0.3
    words = torch.randint(3, 7, (400, 5), generator=generator) + 4 * likely * y[:, None]
    words[torch.arange(400), torch.randint(5, (400,), generator=generator)] = torch.where(y == 1, 1, 2)

    rows = torch.randn(400, 4, generator=generator)
    rows[:, 1] += 2 * y - 1
    rows[:, 0] = 6.0 * y - 3

    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 2)

        def forward(self, tokens):
            return self.head(self.embed(tokens).mean(1))

    torch.manual_seed(0)
    worlds = (
        (nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 2)), pictures, Hue()),
        (Bag(), words, "words:ids=[1,2]"),
        (nn.Linear(4, 2), rows, [1.0, 0.0, 0.0, 0.0]),
    )
    for model, x, shortcut in worlds:
        train = Counterexamples(lambda_ce=0.0, lr=1e-2, n_epochs=15, batch_size=32, random_state=0)
        train.fit(model, x, y, 0.5 + 0.0 * x, progress=False)
        result = mend(model, (x, y), shortcut, progress=False, n_epochs=20)
        assert result.before.relies
        assert not result.after.relies, repr(result)
        assert result.chosen.accuracy_exchanged > result.tries[0].accuracy_exchanged + 0.3


def test_of_many_held_out_samples_a_part_is_assessed(fooled, monkeypatch):
    monkeypatch.setattr(sys.modules["xaikit.mitigation.mend"], "ASSESSED", 50)
    result = mend(fooled, samples(), MASK, methods="counterexamples:lr=0.01", **{**QUICK, "n_epochs": 1})
    assert result.before.samples == 50
    assert abs(result.before.changed["flipped"] - result.tries[0].changed) < 0.2  # of all 120


@pytest.mark.nightly
def test_a_concept(fooled):
    x, y = samples()
    model = copy.deepcopy(fooled)
    bright = torch.rand(600, generator=torch.Generator().manual_seed(2)) > 0.5
    marked = samples(told=bright.long())[0]
    concept = Concept.fit(model, marked, bright, layer="1")
    result = mend(model, (x, y), concept, **{**QUICK, "n_epochs": 4})
    assert result.before is None
    assert result.tries[0].changed > 0.3
    assert all(row.epochs == 4 for row in result.tries[1:])
    assert result.chosen.changed <= result.tries[0].changed
    assert "the concept" in result.verdict


def test_the_best_of_the_methods_is_chosen(fooled):
    weak = Counterexamples(lambda_ce=0.01, lr=1e-5)
    result = mend(fooled, samples(), MASK, methods=[weak, "counterexamples:lambda_ce=10"], **QUICK)
    assert result.method == result.tries[2].method
    assert result.tries[1].method.startswith("counterexamples:lr=1e-05,")  # what the user set stays
    only = mend(fooled, samples(), MASK, methods=weak, **QUICK)
    assert only.method == "unchanged"
    assert only.relies
    assert "still relies on it: 90.8 % of predictions" in only.verdict
    assert "; try from_scratch=True" in only.verdict
    assert only.stopped == "exhausted"


def test_a_budget(fooled):
    few = {**QUICK, "n_epochs": 3}
    weak = [Counterexamples(lambda_ce=0.01 * k, lr=1e-6) for k in (1, 2, 3)]
    result = mend(fooled, samples(), MASK, methods=weak, budget=2, **few)
    assert len(result.tries) == 3
    assert result.stopped == "out_of_time"
    assert "try a larger budget" in result.verdict
    with pytest.raises(InvalidInputError, match="1e-06 s is too small for one training, which takes about"):
        mend(fooled, samples(), MASK, budget="0.000001 s", **few)
    assert mend(fooled, samples(), MASK, budget="1 h", **few).stopped == "done"


def test_the_same_call_goes_on_from_its_folder(fooled, tmp_path, monkeypatch):
    first = mend(fooled, samples(), MASK, folder=tmp_path / "tries", **QUICK)
    trained = []
    monkeypatch.setattr(Counterexamples, "fit", lambda *args, **options: trained.append((args, options)))
    again = mend(fooled, samples(), MASK, folder=tmp_path / "tries", **QUICK)
    assert not trained
    assert again == first
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), first.model.parameters(), strict=True))
    with pytest.raises(InvalidInputError, match=r"holds the tries of another call \(data inputs"):
        mend(fooled, samples(seed=5), MASK, folder=tmp_path / "tries", **QUICK)
    (tmp_path / "tries" / "mend.json").write_text("[]")
    with pytest.raises(InvalidInputError, match="holds no tries of mend"):
        mend(fooled, samples(), MASK, folder=tmp_path / "tries", **QUICK)


def test_the_result_is_saved_and_read(fooled, tmp_path):
    result = mend(fooled, samples(), MASK, **{**ONE, "n_epochs": 2})
    back = MendResult.load(result.save(tmp_path / "mend.json"))
    assert back == result
    assert back.verdict == result.verdict
    assert back.model is None
    json.dumps(result.to_dict(), allow_nan=False)


@pytest.mark.nightly
def test_a_mask_over_everything_is_told(fooled):
    with pytest.warns(UserWarning, match="the mask covers everything"):
        result = mend(fooled, samples(), torch.ones(6, 6), methods="counterexamples:lambda_ce=3", **QUICK)
    row = result.tries[1]
    assert row.accuracy_exchanged < 0.65
    assert "what was named may hold all that matters" in row.note or "collapsed to one class" in row.note
    chosen = dataclasses.replace(result, method=row.method)
    assert chosen.verdict.startswith(f"not mended: {row.note}. ")
    assert "does not rely" not in chosen.verdict


def test_what_cannot_be_mended(fooled):
    x, y = samples(120)
    each = MASK.expand(120, 6, 6).clone()
    each[::2] = MASK.flip(0)
    cases = (
        ((x, y), None, {}, InvalidTypeError, "mend must be told the shortcut"),
        ((x, y), "corners", {}, InvalidInputError, "the factor 'corners' stands for several"),
        ((x, y), "cornr", {}, UnknownNameError, "did you mean 'corner'"),
        ((x, y), "hue", {}, InvalidInputError, "three channels"),
        ((x, y), "words:ids=[3]", {}, InvalidInputError, "is of text data, got image"),
        ((x, y), "region", {}, InvalidInputError, "the data have no masks"),
        (
            (x, y),
            torch.zeros(6, 6),
            {},
            InvalidInputError,
            "sample to train on shows the shortcut: its mask is empty",
        ),
        ((x * 0 + 1, y), MASK, {}, InvalidInputError, "no sample to train on shows the shortcut: the masked region is"),
        ((x, y), MASK, {"validation": (x[:20] * 0 + 1, y[:20])}, InvalidInputError, "no held-out sample shows"),
        ((x, y), each, {"validation": (x[:20], y[:20])}, InvalidInputError, "the validation samples need their own"),
        ((x, y), MASK, {"validation": (x[:20], y[:20] + 1)}, InvalidInputError, "the class 2 is among the held-out"),
        ((x, y.float()), MASK, {}, InvalidTypeError, "whole class indices"),
        ((x, y), MASK, {"budget": 0}, InvalidInputError, "at least one training"),
        ((x, y), MASK, {"methods": []}, InvalidInputError, "at least one mitigator, got none"),
        ((x, y), MASK, {"methods": ["rr"]}, UnknownNameError, "unknown mitigator 'rr'"),
        ((x, y), MASK, {"max_loss": 2}, InvalidInputError, "max_loss"),
        ((x, y), MASK, {"folder": 3}, InvalidTypeError, "folder must be the path of a folder"),
        ((x[:3], y[:3]), MASK, {}, InvalidInputError, "too few to hold a fifth"),
        ((x, y), np.ones((5, 9)), {}, InvalidInputError, "mask"),
    )
    for data, shortcut, options, kind, sentence in cases:
        with pytest.raises(kind, match=sentence):
            mend(fooled, data, shortcut, **{**QUICK, **options})
    with pytest.raises(InvalidInputError, match="nothing to train"):
        mend(copy.deepcopy(fooled).requires_grad_(requires_grad=False), (x, y), MASK, **QUICK)

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(36, 2))

        def forward(self, x):
            return x.flatten(1) @ self.weight

    with pytest.raises(InvalidInputError, match="the weights of Bare '' cannot be drawn anew.*from_scratch=make"):
        mend(Bare(), (x, y), MASK, from_scratch=True, **QUICK)


def scaled_pictures(n=400, seed=0, told=None):
    """Label 1: brighter below; pictures of the class `told` are three times as strong, so lighter and harsher."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.rand(n, 1, 6, 6, generator=generator)
    x[:, 0, 3:] *= (0.6 + 0.4 * y).view(-1, 1, 1)
    return x * (1 + 2.0 * (y if told is None else told)).view(-1, 1, 1, 1) / 3, y


@pytest.mark.nightly
def test_what_goes_with_a_factor_is_exchanged_with_it():
    model, (x, y) = net(), scaled_pictures()
    train = Counterexamples(lambda_ce=0.0, lr=1e-2, n_epochs=12, batch_size=32, random_state=0)
    train.fit(model, x, y, 0.5 + 0.0 * x, progress=False)
    result = mend(model, (x, y), "contrast", progress=False, n_epochs=15)
    assert (result.added, result.remaining, result.relies) == (["brightness"], [], False)
    assert "relied on the brightness, too" in result.verdict
    shown, labels = scaled_pictures(seed=1, told=1 - torch.arange(400) % 2)
    with torch.no_grad():
        accuracies = [float((m(shown).argmax(1) == labels).float().mean()) for m in (model, result.model)]
    assert accuracies[0] < 0.3 < 0.8 < accuracies[1], accuracies
    again = Counterexamples(fill=["brightness", "contrast"])
    assert again.fill == Counterexamples(fill="(together:factors=[brightness,contrast])").fill


def test_what_remains_beside_a_factor_is_told():
    untrained = net()  # nothing is known of what the model will follow
    nn.init.zeros_(untrained[3].weight)
    data, method = scaled_pictures(), Counterexamples(fill="contrast", lr=1e-2, lambda_ce=100)
    result = mend(untrained, data, "contrast", methods=method, from_scratch=True, progress=False, n_epochs=15)
    assert (result.added, result.remaining) == ([], ["brightness"])
    assert result.relies
    assert "a list of all of these as the shortcut" in result.verdict or result.after.relies
    assert MendResult.from_dict(result.to_dict()).remaining == ["brightness"]

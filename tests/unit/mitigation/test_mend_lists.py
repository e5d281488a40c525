"""Mending by lists of factors and masks, with methods that leave the shortcut open, and what is kept in a folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from xaikit.core import MITIGATORS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.results import Interval
from xaikit.factors import Brightness, Corner, DataFacts, MaskedRegion, Together, is_factor, read_factor
from xaikit.mitigation import Concept, Counterexamples, assess, mend
from xaikit.mitigation.mend_methods import spec_string
from xaikit.shortcuts import scan

MASK = torch.zeros(6, 6)
MASK[:2, :2] = 1
QUICK = {"progress": False, "n_epochs": 2}


@pytest.fixture(scope="module")
def fooled():
    """A model that reads the corner alone, and samples whose corner tells the label."""
    y = torch.arange(200) % 2
    x = 0.3 * torch.randn(200, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    x[:, 0, :2, :2] += (4.0 * y - 2).view(-1, 1, 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    with torch.no_grad():
        model[1].weight.mul_(0.1)[1].add_(MASK.flatten())
        model[1].bias.zero_()
    return model, x, y


def test_a_method_takes_the_factor_that_the_shortcut_names(fooled):
    model, x, y = fooled
    result = mend(model, (x, y), Corner(size=2), methods="counterexamples:lr=0.01", **QUICK)
    assert "fill=corner:size=2" in result.tries[1].method
    kept = mend(model, (x, y), "corner:size=2", methods="counterexamples:lr=0.01,fill=brightness", **QUICK)
    assert "fill=brightness" in kept.tries[1].method
    with pytest.raises(InvalidInputError, match="RRR needs masks, and the top left corner has none; name a mask"):
        mend(model, (x, y), "corner:size=2", methods=["counterexamples", "rrr"], **QUICK)
    concept = Concept.fit(model, x, y, layer="0")
    result = mend(model, (x, y), concept, methods="rr_clarc:lr=0.01", **QUICK)
    assert result.tries[1].method.startswith("rr_clarc:lr=0.01")


def test_masks_stand_beside_factors_in_a_list(fooled):
    model, x, y = fooled
    both = read_factor([MASK.numpy(), "brightness"])
    assert both == Together(factors=[MaskedRegion(mask=MASK.numpy()), Brightness()])
    # The mask is that of the corner, so the two lists exchange the same.
    donors = x.roll(1, 0)
    expected = Together(factors=["corner:size=2", "brightness"]).exchange(x, donors)
    assert torch.allclose(both.exchange(x, donors), expected, atol=1e-5)
    assert torch.allclose(read_factor([MASK.tolist(), "brightness"]).exchange(x, donors), expected, atol=1e-5)
    judged = [
        assess(model, (x, y), factor=f, explainers=(), progress=False) for f in (both, ["corner:size=2", "brightness"])
    ]
    assert judged[0].accuracy == judged[1].accuracy
    result = mend(model, (x, y), [MASK, "brightness"], methods="counterexamples:lr=0.01", **QUICK)
    assert result.shortcut == "the region and brightness"
    assert Counterexamples(fill=MASK).fill == MaskedRegion(mask=MASK)
    assert is_factor(np.array(["hue", "border"]))
    assert not is_factor([MASK, None])


@pytest.mark.parametrize(
    ("shortcut", "kind", "sentence"),
    [
        ([], InvalidTypeError, "mend must be told the shortcut"),
        (["brightness", ["contrast"]], InvalidInputError, "holds a list of factors; write their names side by side"),
        ([torch.ones(200, 6, 6), "brightness"], InvalidInputError, r"for all samples.*got \(200, 6, 6\)"),
        ([torch.ones(5, 7), "brightness"], InvalidInputError, "same proportions"),
    ],
)
def test_lists_that_cannot_be(fooled, shortcut, kind, sentence):
    model, x, y = fooled
    with pytest.raises(kind, match=sentence):
        mend(model, (x, y), shortcut, **QUICK)


@pytest.mark.parametrize("name", ["mask.png", Path("masks") / "mask.npy", "masks/", "C:\\masks\\plaster.TIF"])
def test_a_mask_is_no_file(fooled, name):
    model, x, y = fooled
    for call in (
        lambda: mend(model, (x, y), name, **QUICK),
        lambda: assess(model, (x, y), factor=name, progress=False),
        lambda: scan(model, (x, y), name, progress=False),
    ):
        with pytest.raises(InvalidInputError, match="names a file; read it first, .* on the command line --mask"):
            call()
    with pytest.raises(InvalidTypeError, match="of a file what numpy.load or PIL.Image.open reads"):
        assess(model, (x, y), shortcut_masks=name, progress=False)


def test_one_class_has_no_shortcut(fooled):
    model, x, y = fooled
    with pytest.raises(InvalidInputError, match="all samples to train on are of class 0; pass samples of two classes"):
        mend(model, (x[y == 0], y[y == 0]), "corner", **QUICK)
    with pytest.raises(InvalidInputError, match=r"all held-out samples are of class 1; pass validation=\(x, y\)"):
        mend(model, (x, y), "corner", validation=(x[y == 1], y[y == 1]), **QUICK)
    with pytest.raises(InvalidInputError, match="assess needs samples of two classes"):
        _ = assess(model, (x[y == 0], y[y == 0]), factor="corner", explainers=(), progress=False).relies


def test_masks_in_settings_tell_one_try_from_another(fooled, tmp_path):
    model, x, y = fooled
    other = MASK.flip(0)
    fills = [Counterexamples(fill=MaskedRegion(mask=mask), lr=0.3) for mask in (other, MASK)]
    result = mend(model, (x, y), MASK, methods=fills, **QUICK)
    alone = mend(model, (x, y), MASK, methods=fills[1:], **QUICK)
    assert result.tries[2].accuracy_exchanged == alone.tries[1].accuracy_exchanged > result.tries[1].accuracy_exchanged
    mend(model, (x, y), [MASK, "brightness"], methods="counterexamples:lr=0.01", folder=tmp_path, **QUICK)
    with pytest.raises(InvalidInputError, match="the tries of another call"):
        mend(model, (x, y), [other, "brightness"], methods="counterexamples:lr=0.01", folder=tmp_path, **QUICK)


def test_samples_that_require_gradients_and_facts_of_arrays(fooled):
    model, x, y = fooled
    options = {"methods": "counterexamples:lr=0.01", **QUICK}
    plain, watched = (
        mend(model, (inputs, y), ["corner", "brightness"], **options) for inputs in (x, x.clone().requires_grad_())
    )
    assert plain.tries[1].accuracy_exchanged == watched.tries[1].accuracy_exchanged
    table = pd.DataFrame(np.eye(4), columns=["a", "b", "c", "d"])
    assert DataFacts.of(torch.eye(4), columns=table.columns).columns == ("a", "b", "c", "d")
    assert DataFacts.of(torch.eye(4).long(), kind="text", special=np.array([0, 3])).special == (0, 3)


def test_factors_that_are_none_are_refused(fooled):
    model, x, y = fooled
    with pytest.raises(InvalidTypeError, match="expected factor as a name"):
        scan(model, (x, y), 5, progress=False)


def test_few_samples_are_told_in_the_verdict(fooled):
    model, x, y = fooled
    judged = assess(model, (x[:2], y[:2]), factor="corner:size=2", explainers=(), progress=False)
    assert not judged.relies
    assert judged.verdict.startswith("2 samples are too few to tell whether it relies on it: 100.0 % of predictions")
    alike = dataclasses.replace(judged, reliance=Interval(-0.1, 0.05, 0.2, 0.95, 200))
    assert alike.verdict.endswith("which tells nothing")


def test_scan_takes_lists_and_loses_no_mask(fooled):
    model, x, y = fooled
    lists = scan(model, (x, y), factors=["border", ["corner:size=2", "brightness"]], progress=False)
    spec = scan(model, (x, y), factors="together:factors=[corner:where=top-left,size=2,brightness]", progress=False)
    by_title = {effect.title: effect for effect in lists.effects}
    assert set(by_title) == {"border", "top left corner and brightness"}
    assert by_title["top left corner and brightness"].follows.mean == spec.effects[0].follows.mean
    with pytest.raises(InvalidInputError, match="one row for a mask, and there are two"):
        scan(model, (x, y), factors=[MASK, MASK.flip(0)], progress=False)
    assert len(scan(model, (x, y), factors=["border", "border"], progress=False).effects) == 1


@pytest.mark.nightly
def test_seeds_facts_and_epochs_that_users_pass(fooled):
    """Numpy's numbers count as Python's; None, text and lists end in a sentence, not in a torch error."""
    model, x, y = fooled
    options = {"explainers": (), "progress": False}
    expected = assess(model, (x, y), factor="corner:size=2", seed=3, **options)
    facts = DataFacts.of(x)
    assert assess(model, (x, y), factor="corner:size=2", seed=np.int64(3), facts=facts, **options) == expected
    scanned = scan(model, (x, y), factors="border", seed=np.int64(3), facts=facts, progress=False)
    assert scanned == scan(model, (x, y), factors="border", seed=3, progress=False)
    calls = (
        lambda **more: assess(model, (x, y), factor="corner", **options, **more),
        lambda **more: mend(model, (x, y), "corner", **{**QUICK, **more}),
        lambda **more: scan(model, (x, y), factors="border", progress=False, **more),
    )
    for call in calls:
        for wrong in ({"seed": None}, {"seed": "0"}, {"seed": -1}, {"facts": [1]}):
            with pytest.raises((InvalidInputError, InvalidTypeError), match=f"{next(iter(wrong))} must be"):
                call(**wrong)
    for n_epochs in ("3", 0):
        with pytest.raises((InvalidInputError, InvalidTypeError), match="n_epochs must be"):
            calls[1](n_epochs=n_epochs)
    with pytest.raises(InvalidTypeError, match="seed must be"):
        Counterexamples(fill="corner").loss(model, (x, y), seed="0")
    with pytest.raises(InvalidInputError, match="factor must name at least one factor"):
        assess(model, (x, y), factor=[], **options)
    for methods in (Counterexamples, {"name": "counterexamples"}, iter(["counterexamples"])):
        assert len(mend(model, (x, y), "corner:size=2", methods=methods, budget=1, **QUICK).tries) == 2


def test_the_text_of_a_mask_describes_it_and_cannot_be_read():
    mask = torch.zeros(4, 6)
    mask[1, :5] = 1
    text = spec_string(Counterexamples(fill=[mask, "hue"]))
    assert text == "counterexamples:fill=(together:factors=[(region:mask=(4x6, 5 inside)),hue])"
    assert spec_string(Counterexamples(fill=[mask.numpy(), "hue"])) == text
    for unreadable in (text, "counterexamples:fill=[region:mask=mask.npy,hue]"):
        with pytest.raises(InvalidInputError, match=r"a text describes a mask .* pass the mask itself"):
            MITIGATORS.create(unreadable)
    assert MITIGATORS.create("counterexamples:fill=[corner:size=2,hue]").fill.title.endswith(" and hue")


def test_one_mask_serves_validation_samples_of_several_channels(fooled):
    _, x, y = fooled
    x = x.expand(-1, 3, -1, -1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    result = mend(model, (x, y), MASK, validation=(x[:60], y[:60]), methods="counterexamples", **QUICK)
    assert result.before.samples == 60
    series, window = x[:, :, 0], torch.tensor([1.0, 1, 0, 0, 0, 0])
    model = nn.Sequential(nn.Flatten(), nn.Linear(18, 2))
    validation = (series[:6], y[:6])  # as many as there are steps
    result = mend(model, (series, y), window, validation=validation, methods="counterexamples", **QUICK)
    assert result.before.samples == 6

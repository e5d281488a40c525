"""scan: models whose reliance is known, counted again by hand; the forms of data that users have."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.core.intervals import difference_interval, paired_interval, share_interval
from xaikit.factors import Corner, DataFacts, Hue
from xaikit.factors.donors import DonorPool
from xaikit.mitigation import assess
from xaikit.shortcuts import Scan, scan


class Reads(nn.Module):
    """Predicts the class that the corner tells, or the one that the rest tells."""

    def __init__(self, corner: float, classes: int = 4):
        super().__init__()
        self.corner, self.classes = nn.Parameter(torch.tensor(corner)), classes

    def forward(self, x):
        reading = self.corner * x[:, 0, :2, :2].mean((1, 2)) + (1 - self.corner) * x[:, 0, 3:6, 3:6].mean((1, 2))
        return -((self.classes * reading[:, None] - torch.arange(self.classes)) ** 2)


def data(n=120, classes=4):
    """The corner tells the label, and so does the middle."""
    y = torch.arange(n) % classes
    x = 0.01 * torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    told = (y / classes)[:, None, None]
    x[:, 0, :2, :2] += told
    x[:, 0, 3:6, 3:6] += told
    return x, y


def measure(model, samples, factors=None, **settings):
    return scan(model, samples, factors, progress=False, **settings)


@pytest.mark.parametrize("form", ["tensors", "arrays", "loader", "data set"])
def test_the_shortcut_is_first_and_the_only_suspects_hold_it(form):
    x, y = data()
    samples = {
        "tensors": (x, y),
        "arrays": (x.numpy(), y.numpy()),
        "loader": DataLoader(TensorDataset(x, y), batch_size=50),
        "data set": TensorDataset(x, y),
    }[form]
    fooled = measure(Reads(1.0), samples)
    assert fooled.effects[0].title == "top left corner"
    suspects = {effect.title for effect in fooled.suspects}
    assert suspects >= {"top left corner", "border"}
    assert not suspects & {"top right corner", "bottom left corner", "bottom right corner", "background"}
    assert fooled["top left corner"].follows.mean == 1
    assert fooled["top left corner"].accuracy == 0
    assert fooled.accuracy == 1
    assert fooled.samples == 120
    assert fooled.kind == "image"
    assert fooled.verdict.startswith("suspect: 100 % of predictions follow the top left corner; also suspect: ")
    honest = measure(Reads(0.0), samples, ["corners", "border", "background", "foreground", "cells"])
    assert honest.suspects == ()
    assert honest.verdict.startswith("no suspect")
    assert "to judge for yourself: " in honest.verdict


def test_what_is_counted_is_right():
    """All numbers again from the pairing, in a plain loop."""
    x, y = data(90, classes=3)
    model = Reads(0.7, 3)
    effect = measure(model, (x, y), "corner", seed=5).effects[0]
    generator, pool = torch.Generator().manual_seed(5), DonorPool([(x, y, None)], 3)
    others = pool.of_other_classes(y, generator)
    same = pool.of_same_class(y, torch.arange(90), generator)
    before = model(x).argmax(1)
    follow, damage, changed, right = [], [], [], []
    for i in range(90):
        outcomes = []
        for donor in (others[i], same[i]):
            mixed = x[i : i + 1].clone()
            mixed[..., :2, :2] = pool.tensors[0][donor][..., :2, :2]
            outcomes.append(int(model(mixed).argmax()))
        target = int(pool.labels[others[i]])
        assert target != y[i]
        assert pool.labels[same[i]] == y[i]
        follow.append(outcomes[0] == target and before[i] != target)
        damage.append(outcomes[1] == target and before[i] != target)
        changed.append(outcomes[0] != before[i])
        right.append(outcomes[0] == y[i])
    assert effect.follows.mean == pytest.approx(np.mean(follow) - np.mean(damage))
    assert effect.changed.mean == pytest.approx(np.mean(changed))
    assert effect.accuracy == pytest.approx(np.mean(right))
    assert effect.lost == pytest.approx((before == y).double().mean().item() - np.mean(right))
    accuracies = {c: np.mean([r for r, label in zip(right, y, strict=True) if label == c]) for c in range(3)}
    assert effect.worst_accuracy == pytest.approx(min(accuracies.values()))
    assert accuracies[effect.worst_class] == pytest.approx(effect.worst_accuracy)
    assert effect.size == pytest.approx(4 / 64)


def test_damage_is_not_following():
    """A model that falls to the other class whenever anything is disturbed: every change is to the donor's class."""

    class Fragile(nn.Module):
        def forward(self, x):
            disturbed = (x[:, 0, :4, :4] - x[:, 0, :1, :1]).abs().amax((1, 2)) > 1e-6
            label = (x[:, 0, 7, 7] > 0.5) ^ disturbed
            return nn.functional.one_hot(label.long(), 2).float()

    y = torch.arange(80) % 2
    x = torch.rand(80, 1, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, 1, 8, 8).clone()
    x[:, 0, 7, 7] = y.float()
    effect = measure(Fragile(), (x, y), "cell:rows=4,columns=4,row=1,column=1").effects[0]
    assert effect.changed.mean > 0.9
    assert abs(effect.follows.mean) < 0.1
    assert not effect.is_suspect


def test_a_patch_on_half_of_one_class_is_found():
    x, y = data(400, classes=10)
    x[:, 0, :2, :2] = 0
    x[(y == 8) & (torch.arange(400) % 20 < 10), 0, :2, :2] = 5

    class Fooled(nn.Module):
        def forward(self, x):
            logits = Reads(0.0, 10)(x)
            return torch.where((x[:, 0, 0, 0] > 1)[:, None], 100 * nn.functional.one_hot(torch.tensor(8), 10), logits)

    effect = measure(Fooled(), (x, y), "corner").effects[0]
    assert effect.follows.mean < 0.1
    assert effect.leading_class == 8
    assert effect.is_suspect
    assert effect.sentence([f"digit {i}" for i in range(10)]).endswith("follow the top left corner of class digit 8")


def test_colours_texts_tables_and_series():
    y = torch.arange(60) % 2
    hue = torch.zeros(60, 3, 6, 6)
    hue[torch.arange(60), y, 2:4, 2:4] = 1
    red = nn.Sequential(nn.Flatten(), nn.Linear(108, 2, bias=False))
    red[1].weight.data = torch.stack([torch.eye(3)[i].repeat_interleave(36) for i in (0, 1)])
    assert measure(red, (hue, y)).effects[0].title == "hue"

    words = ["[PAD]", "good", "bad", "text", "video", "film"]
    texts = torch.tensor([[5, 5, 3 + label, 0] for label in y.tolist()])
    model = nn.Sequential(nn.EmbeddingBag(6, 2), nn.Identity())
    model[0].weight.data = torch.tensor([[0.0, 0], [0, 0], [0, 0], [1, 0], [0, 1], [0, 0]])
    result = measure(model, (texts, y), facts={"vocabulary": words})
    assert result.kind == "text"
    assert result.effects[0].title in ("words text, video", "words video, text")
    assert result.effects[0].follows.mean == 1

    rows = torch.randn(60, 3)
    rows[:, 1] = 2.0 * y - 1
    linear = nn.Linear(3, 2)
    linear.weight.data = torch.tensor([[0.0, -1, 0], [0, 1, 0]])
    linear.bias.data.zero_()
    table = measure(linear, (rows.tolist(), y.tolist()), facts={"columns": ["age", "race", "sex"]})
    assert table.effects[0].title == "column race"
    assert table.effects[0].nature == "content"
    assert table.suspects == ()
    assert "100 % of predictions follow the column race" in table.verdict

    series = torch.zeros(60, 2, 16)
    series[:, 1, 4:6] = (2.0 * y - 1)[:, None]
    series += 0.01 * torch.randn(60, 2, 16)
    reader = nn.Sequential(nn.Flatten(), nn.Linear(32, 2, bias=False))
    reader[1].weight.data = torch.zeros(2, 32)
    reader[1].weight.data[:, 20:22] = torch.tensor([[-1.0], [1.0]])
    found = measure(reader, (series, y))
    assert [e.title for e in found.effects if e.follows.mean == 1] == ["window 3 of 8", "channel 1"]


def test_several_inputs_and_masks_of_the_data():
    x, y = data(60, classes=2)

    class Two(nn.Module):
        def forward(self, picture, ages):
            return Reads(1.0, 2)(picture) + 0 * ages.sum()

    both = measure(Two(), ({"picture": x, "ages": torch.rand(60, 2)}, y))
    assert both.effects[0].title == "top left corner"
    assert "column 0" in [e.title for e in both.effects]
    mask = torch.zeros(8, 8)
    mask[:2, :2] = 1
    region = measure(Reads(1.0, 2), (x, y, mask.expand(60, 8, 8)), ["region", "hue:nature=content"][:1])
    assert region.effects[0].follows.mean == 1
    assert measure(Reads(1.0, 2), (x, y), mask.numpy()).effects[0].follows.mean == 1
    assert measure(Reads(1.0, 2), (x, y), "region", shortcut_masks=mask).effects[0].follows.mean == 1
    assert "region" in [e.title for e in measure(Reads(1.0, 2), (x, y), shortcut_masks=mask).effects]


def test_the_result_is_a_value():
    x, y = data()
    result = measure(Reads(1.0), (x, y), ["corners", "border", Corner(size=3)])
    assert [e.title for e in result.effects].count("top left corner") == 1
    assert Scan.from_dict(result.to_dict()) == result
    assert measure(Reads(1.0), (x, y), ["corners", "border", Corner(size=3)]) == result
    assert measure(Reads(1.0), (x, y), ["corners", "border"], seed=1) != result
    assert result.effects[0].factor == Corner()
    frame = result.to_pandas()
    assert frame.loc["top left corner", "follows"] == 1
    assert frame.loc["top left corner", "suspect"]
    assert "top left corner" in repr(result)
    assert result.pictures["top left corner"].shape == (3, 3, 1, 8, 8)
    original, donor, exchanged = result.pictures["top left corner"][0]
    facts = DataFacts.of(x)
    assert torch.equal(Corner().exchange(original[None], donor[None], facts=facts)[0], exchanged)
    with pytest.raises(UnknownNameError, match="did you mean 'border'"):
        result["bordre"]


def test_the_model_and_the_random_state_stay():
    x, y = data(40)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(64), nn.Linear(64, 4))
    model[1].eval()
    state, weights = torch.random.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    measure(model, (x, y), "corner")
    assert torch.equal(state, torch.random.get_rng_state())
    assert [m.training for m in model.modules()] == [True, True, False, True, True]
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())


def test_intervals():
    hits = torch.tensor([True] * 30 + [False] * 70)
    wilson = stats.binomtest(30, 100).proportion_ci(0.95, method="wilson")
    interval = share_interval(hits, 0.95)
    assert (interval.low, interval.high) == pytest.approx((wilson.low, wilson.high))
    first, second = hits, hits.flip(0) & (torch.arange(100) % 3 == 0)
    interval = paired_interval(first, second, 0.9)
    b, c = int((first & ~second).sum()) + 0.5, int((second & ~first).sum()) + 0.5
    values = np.array([1.0] * int(2 * b) + [-1.0] * int(2 * c) + [0.0] * int(2 * (102 - b - c)))  # half samples
    margin = stats.norm.ppf(0.95) * values.std() / math.sqrt(102)
    assert (interval.low, interval.high) == pytest.approx((values.mean() - margin, values.mean() + margin))
    assert interval.mean == pytest.approx((first.double() - second.double()).mean().item())
    interval = difference_interval(hits, second[:50], 0.9)
    a, b = (np.append(part, [1, 0]) for part in (hits.numpy(), second[:50].numpy()))  # one of each outcome added
    margin = stats.norm.ppf(0.95) * math.sqrt(a.var() / 102 + b.var() / 52)
    assert (interval.low, interval.high) == pytest.approx((a.mean() - b.mean() - margin, a.mean() - b.mean() + margin))
    assert interval.mean == pytest.approx(0.3 - second[:50].double().mean().item())


def test_few_samples_do_not_decide():
    x, y = data(6, classes=2)
    result = measure(Reads(0.0, 2), (x, y), ["border", "corner"])
    assert result.suspects == ()
    assert "; 6 samples are too few to tell of: " in result.verdict
    many = measure(Reads(0.0, 2), data(300, classes=2), ["border", "corner"])
    assert "do not decide" not in many.verdict


def test_what_cannot_be_scanned_is_refused_in_a_sentence():
    x, y = data()
    with pytest.raises(InvalidInputError, match="'hue' is of images with three channels"):
        measure(Reads(1.0), (x, y), Hue())
    with pytest.raises(InvalidInputError, match="'word text' is of text data, got image"):
        measure(Reads(1.0), (x, y), "words:names=text")
    with pytest.raises(InvalidInputError, match="no sample shows the factor 'top right corner'"):
        measure(Reads(1.0), (torch.where(torch.arange(8) > 4, 0.0, x), y), "corner:where=top-right")
    with pytest.raises(UnknownNameError, match="did you mean 'border'"):
        measure(Reads(1.0), (x, y), "bordre")
    with pytest.raises(InvalidInputError, match="all of these are of class 2"):
        measure(Reads(1.0), (x, torch.full((120,), 2)))
    with pytest.raises(UnknownNameError, match="did you mean 'image'"):
        measure(Reads(1.0), (x, y), modality="imege")
    with pytest.raises(InvalidInputError, match="needs masks"):
        measure(Reads(1.0), (x, y), "region")


def test_a_dataframe_names_its_columns():
    x, y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2
    frame, model = pd.DataFrame(x.numpy(), columns=["age", "sex", "weight"]), nn.Linear(3, 2)
    named = scan(model, (frame, y.numpy()), progress=False)
    assert {effect.title for effect in named.effects} == {f"column {name}" for name in frame}
    options = {"explainers": (), "progress": False}
    by_name = assess(model, (frame, y.numpy()), factor="column:names=sex", **options)
    by_place = assess(model, (x, y), factor="column:indices=[1]", **options)
    assert by_name.changed == by_place.changed
    with pytest.raises(UnknownNameError, match="size"):
        assess(model, (frame, y.numpy()), factor="column:names=size", **options)
    told = {"facts": {"columns": ["a", "b", "c"]}}  # who names them otherwise means that
    assert assess(model, (frame, y.numpy()), factor="column:names=b", **told, **options).changed == by_place.changed

"""TCAV on nets whose concepts are planted: closed forms behind a linear layer, a test against scipy's own."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from xaikit import Class, Concept, Contrast
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.shortcuts import tcav
from xaikit.shortcuts.tcav import welch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Planted(nn.Module):
    """Channel 0 speaks for class 1 and against class 0; channel 1 for class 0 where channel 2 is positive."""

    def __init__(self):
        super().__init__()
        self.channels = nn.Identity()

    def forward(self, x):
        a = self.channels(x).mean((2, 3))
        return torch.stack([a[:, 1] * a[:, 2] - a[:, 0], 2 * a[:, 0]], 1)


def pictures(n, seed, **raised):
    x = torch.randn(n, 4, 3, 3, generator=generator(seed)).double()
    for channel, value in raised.items():
        x[:, int(channel[1:])] += value
    return x


def planted(n_sets=16, **settings):
    x, y = pictures(60, 1), torch.arange(60) % 2
    concepts = {"zero": pictures(48, 2, c0=3.0), "one": pictures(48, 3, c1=3.0), "nothing": pictures(48, 4)}
    sets = [pictures(40, 10 + k) for k in range(n_sets)]
    return x, y, tcav(Planted(), (x, y), concepts, random_sets=sets, layers="channels", **settings)


@pytest.mark.parametrize("method", ["svm", "ridge", "pattern"])
def test_a_planted_concept_counts_and_one_that_is_none_does_not(method):
    x, y, result = planted(16 if method == "pattern" else 4, method=method)
    rows = {(row.concept, row.target): row for row in result.rows}
    assert len(rows) == 6
    # Behind the layer class 1 is linear: its score grows along channel 0 for every sample.
    assert (rows["zero", 1].score, rows["zero", 1].deviation) == (1, 0)
    assert set(rows["zero", 1].part_scores) == {1.0}
    assert rows["zero", 0].score < 0.1
    for row in result.rows:
        assert row.p_adjusted == min(1.0, 3 * row.p)
        assert row.samples == 30
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of scores that are all 1
            expected = stats.ttest_ind(row.part_scores, row.random_scores, equal_var=False).pvalue
        assert row.p == pytest.approx(expected, rel=1e-6)
    if method == "pattern":  # with enough sets for a test
        # Class 0 grows along channel 1 where channel 2 is positive.
        share = float((x[y == 0].mean((2, 3))[:, 2] > 0).double().mean())
        assert rows["one", 0].score == pytest.approx(share, abs=0.12)
        significant = {(row.concept, row.target) for row in result.significant(0.05)}
        assert significant >= {("zero", 0), ("zero", 1)}
        assert not {pair for pair in significant if pair[0] == "nothing"}
    assert rows["zero", 1].accuracy > 0.95
    assert rows["nothing", 1].accuracy == pytest.approx(0.5, abs=0.15)


def test_the_vectors_are_those_of_a_concept_and_the_share_is_that_of_the_slopes():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2), nn.Tanh()).double()
    x, example = torch.randn(20, 2, 3, 3).double(), torch.randn(12, 2, 3, 3).double() + 1
    sets = list(torch.randn(3, 10, 2, 3, 3).double())
    (row,) = tcav(model, (x, 1), {"more": example}, random_sets=sets, layers="0", method="ridge").rows

    def share(with_it, without):
        flags = torch.arange(len(with_it) + len(without)) < len(with_it)
        concept = Concept.fit(model, torch.cat([with_it, without]), flags, layer="0", method="ridge")
        step = 1e-6 * concept.direction[:, None, None]
        with torch.no_grad():
            a = model[0](x)
            slopes = (model[1:](a + step) - model[1:](a - step))[:, 1]
        return float((slopes > 0).double().mean())

    assert row.score == pytest.approx(np.mean([share(example, others) for others in sets]))
    assert row.part_scores == tuple(share(example[k::3], sets[k]) for k in range(3))
    assert row.random_scores == tuple(share(sets[k][:4], sets[(k + 1) % 3]) for k in range(3))
    assert row.target == 1


def test_the_random_vectors_hold_the_level():
    """Concepts that are random sets themselves are significant about as often as the level says."""
    model = Planted()
    x = pictures(40, 1)
    concepts = {str(k): pictures(30, 100 + k) for k in range(20)}
    sets = [pictures(30, 200 + k) for k in range(10)]
    result = tcav(model, (x, 1), concepts, random_sets=sets, layers="channels", method="pattern")
    assert sum(row.p < 0.05 for row in result.rows) <= 4  # the test of the paper has nine of twenty
    assert not result.significant()


def test_layers_targets_and_tokens():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    tokens, sets = torch.randn(9, 6, 4).double(), list(torch.randn(3, 8, 6, 4).double())

    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, x):
            return self.net(x).mean(1)

    concepts = {"a": torch.randn(8, 6, 4).double() + 1}
    settings = {"random_sets": sets, "layers": ["net.0", "net.1"], "channel_axis": -1}
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(tokens, torch.arange(9) % 3), batch_size=4)
    table = tcav(Pooled(), loader, concepts, **settings).to_pandas()
    assert table.layer.tolist() == ["net.0"] * 3 + ["net.1"] * 3
    assert table.target.tolist() == [0, 1, 2] * 2
    at_once = tcav(Pooled(), (tokens, torch.arange(9) % 3), concepts, **settings).to_pandas()
    assert table.equals(at_once)
    contrast = tcav(Pooled(), (tokens, Contrast(1, 0)), concepts, **settings).rows[0]
    assert contrast.target is None
    assert contrast.samples == 9


def test_a_regression_has_one_score():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double(), torch.randn(40, 3).double()
    (row,) = tcav(model, (x[:8], None), {"a": x[:8] + 1}, random_sets=x[8:].chunk(4), layers="0").rows
    assert row.target is None


def test_a_test_without_spread():
    assert welch(np.ones(3), np.ones(3)) == 1
    assert welch(np.ones(3), np.zeros(3)) == 0


def test_the_picture_shows_the_scores():
    _, _, result = planted(method="pattern")
    figure = result.plot()
    figure.canvas.draw()
    heights = [p.get_height() for axes in figure.axes for p in axes.patches if p.get_height() > 0]
    assert sorted(heights) == pytest.approx(sorted(row.score for row in result.rows if row.score > 0))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"concepts": {}}, InvalidInputError, "at least one concept, got none"),
        ({"concepts": [1]}, InvalidTypeError, "must be a mapping from names to examples, .* got list"),
        ({"concepts": {"a": torch.rand(3, 4)}}, InvalidInputError, "concept 'a' must hold at least 6 samples, got 3"),
        ({"random_sets": [torch.rand(8, 4)] * 2}, InvalidInputError, "at least 3 random sets, got 2"),
        ({"random_sets": torch.rand(8, 4)}, InvalidTypeError, "must be a list of sets of samples, .* got Tensor"),
        (
            {"random_sets": [torch.rand(2, 4)] * 3},
            InvalidInputError,
            "random set 0 must hold at least 6 samples, got 2",
        ),
        ({"layers": []}, InvalidInputError, "at least one layer"),
        ({"layers": None}, InvalidTypeError, "tcav needs layers=, .* such as '0' or '1'"),
        ({"random_sets": None}, InvalidTypeError, "tcav needs random_sets=, at least 3 sets"),
        ({"layers": "9"}, UnknownNameError, "no layer '9'"),
        ({"method": "svc"}, InvalidInputError, "method must be one of 'pattern', 'ridge', 'svm', got 'svc'"),
        ({"random_sets": [torch.ones(8, 4)] * 3}, InvalidInputError, "same activations with and without"),
    ],
)
def test_wrong_calls(change, error, message):
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    call = {"concepts": {"a": torch.rand(8, 4)}, "random_sets": list(torch.rand(3, 8, 4)), "layers": "0", **change}
    with pytest.raises(error, match=message):
        tcav(model, (torch.rand(5, 4), 0), **call)
    with pytest.raises(InvalidInputError, match="level must be between 0 and 1, got 5"):
        planted(3, method="pattern")[2].significant(5)


def test_one_class_for_all_in_every_form():
    """`1`, numpy's 1 and `Class(1)` are the same class; random sets may come from a generator."""
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(60, 3, generator=generator())
    options = {"layers": "0", "random_sets": x[20:].chunk(5)}
    expected = tcav(model, (x, 1), {"first": x[:12]}, **options)
    assert expected.rows[0].target == 1
    for target in (np.int64(1), Class(1), torch.tensor(1)):
        assert tcav(model, (x, target), {"first": x[:12]}, **options) == expected
    again = tcav(model, (x, 1), {"first": x[:12]}, layers="0", random_sets=(part for part in x[20:].chunk(5)))
    assert again == expected
    for axis in (0, 9):
        with pytest.raises(InvalidInputError, match=rf"channel_axis must be an axis .*got {axis} for shape"):
            tcav(model, (x, 1), {"first": x[:12]}, channel_axis=axis, **options)


def test_a_bar_counts_the_passes(capsys):
    x = torch.rand(70, 3)
    model, loader = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), [(x[:6], 0), (x[6:8], 1)]
    options = {"random_sets": x[8:].chunk(4), "layers": ["0", "1"]}
    tcav(model, loader, {"a": x[:8] + 1}, **options)
    assert "14/14" in capsys.readouterr().err  # 4 random sets, a concept and two batches at both layers
    tcav(model, loader, {"a": x[:8] + 1}, **options, progress=False)
    assert not capsys.readouterr().err


def test_several_layers_need_data_that_can_be_read_again():
    x = torch.rand(70, 3)
    model, data = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2)), [(x[:8], 0)]
    options = {"random_sets": x[8:].chunk(4), "progress": False}
    with pytest.raises(InvalidInputError, match="an iterator can be read once"):
        tcav(model, iter(data), {"a": x[:8] + 1}, layers=["0", "1"], **options)
    once = tcav(model, iter(data), {"a": x[:8] + 1}, layers="0", **options)
    assert tcav(model, data, {"a": x[:8] + 1}, layers=["0", model[0]], **options) == once


def test_several_targets_have_rows_of_their_own():
    x, concepts = pictures(150, 1), {"zero": pictures(48, 2, c0=3.0), "one": pictures(48, 3, c1=3.0)}
    options = {"random_sets": [pictures(40, 10 + k) for k in range(4)], "layers": "channels", "progress": False}

    def first(output):
        return output[:, 0] ** 2

    several = [1, Contrast(1, 0), "probability:of=0", first, first]
    result = tcav(Planted(), (x, several), concepts, **options)
    names = [1, "contrast:for_=1,against=0", "probability:of=0", "first", "first (4)"]
    assert [row.target for row in result.rows] == names * 2
    for target, name in zip(several, names, strict=True):
        alone = tcav(Planted(), (x, target), concepts, **options)
        for row, other in zip([r for r in result.rows if r.target == name], alone.rows, strict=True):
            assert row.part_scores == other.part_scores
            assert (row.score, row.p, row.samples) == (other.score, other.p, 150)
    assert [axes.get_title("left") for axes in result.plot().axes[:2]] == ["class 1", names[1]]

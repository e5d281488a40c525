"""Figures of tables: bars and points over many rows, one row as a waterfall; every number against a plain loop."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import IntegratedGradients, Report, VarGrad, explain_dataset
from xaikit.core.errors import InvalidInputError
from xaikit.report import Names
from xaikit.report.cards import drawn
from xaikit.report.columns import columns_figure, description_of, ranked, rows_figure

RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(40, 15)) * np.arange(1, 16)
INPUTS = RNG.normal(size=(40, 15))
COLUMNS = [f"c{j}" for j in range(15)]


def test_bars_are_mean_sizes_and_sum_what_they_leave_out() -> None:
    means = {name: sum(abs(row[j]) for row in VALUES) / 40 for j, name in enumerate(COLUMNS)}
    order = sorted(COLUMNS, key=lambda name: -means[name])
    bars, points, *_ = columns_figure(VALUES, INPUTS, COLUMNS).axes
    labels = [text.get_text() for text in bars.get_yticklabels()]
    assert labels == [*order[:11], "4 others, summed"]
    widths = [patch.get_width() for patch in bars.patches]
    assert widths == pytest.approx([*(means[n] for n in order[:11]), sum(means[n] for n in order[11:])])
    assert sum(widths) == pytest.approx(sum(means.values()))
    for place, (name, swarm) in enumerate(zip(order[:11], points.collections, strict=True)):
        x, y = swarm.get_offsets().T
        assert sorted(x) == pytest.approx(sorted(VALUES[:, COLUMNS.index(name)]))
        assert np.abs(y - place).max() < 0.5  # no point lies on another column's line
    assert f"{order[0]} {means[order[0]]:.3g}" in description_of(VALUES, COLUMNS)


def test_points_have_the_colour_of_their_value() -> None:
    inputs = np.tile(np.linspace(-1, 1, 40)[:, None], 15)
    swarm = columns_figure(VALUES, inputs).axes[1].collections[0]
    shades, place = swarm.get_array(), int(np.argmax(np.abs(VALUES).mean(0)))
    by_value = [shades[list(swarm.get_offsets()[:, 0]).index(VALUES[i, place])] for i in range(40)]
    assert by_value == sorted(by_value)
    assert (by_value[0], by_value[-1]) == (0, 1)


def test_nothing_is_summed_where_one_column_would_be_left() -> None:
    top, others = ranked(np.arange(12.0), 12)
    assert (len(top), len(others)) == (12, 0)
    top, others = ranked(np.arange(13.0), 12)
    assert (len(top), len(others)) == (11, 2)


def test_a_row_is_a_waterfall_from_what_is_not_attributed_to_the_score() -> None:
    row, score = np.array([[0.5, -2.0, 1.0]]), np.array([0.25])
    (axes,) = rows_figure(row, None, ["a"], ["x", "y", "z"], score).axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["not attributed", "y", "z", "x", "score"]
    ends = [(p.get_x(), p.get_x() + p.get_width()) for p in axes.patches]
    assert np.allclose(ends, [(0, 0.75), (0.75, -1.25), (-1.25, -0.25), (-0.25, 0.25), (0, 0.25)])
    (plain,) = rows_figure(row, None, ["a"], ["x", "y", "z"], None).axes
    assert [p.get_width() for p in plain.patches] == [-2.0, 1.0, 0.5]


def test_a_card_of_the_page_is_the_same_waterfall() -> None:
    bars = drawn("tabular", np.array([0.5, -2.0, 1.0]), None, Names(), score=0.25)["bars"]
    low, span = -1.25, 2.0  # from -1.25 to 0.75
    expected = [(0, 0.75), (-1.25, 0.75), (-1.25, -0.25), (-0.25, 0.25), (0, 0.25)]
    assert np.allclose([(b["start"], b["start"] + b["share"]) for b in bars], (np.array(expected) - low) / span)
    assert [b["sign"] for b in bars] == ["whole", "against", "for", "for", "whole"]


def test_the_page_has_a_figure_for_each_explainer_and_waterfalls_where_sums_are_promised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), torch.randn(6, 4)
    explainers = [IntegratedGradients(model, n_steps=4), VarGrad(model, n_iter=2)]
    runs = [explain_dataset(e, x, out=tmp_path / e.NAME, keep_inputs=True, progress=False) for e in explainers]
    page = Report(runs, names=Names(features=["a", "b", "c", "d"])).html()
    assert page.count("<h2>Relevance of each column, ") == 2
    assert page.count(">not attributed</th>") == page.count(">score</th>") == 6  # of the one method that promises a sum
    one = Report(runs[:1]).html()
    assert one.count("<h2>Relevance of each column</h2>") == 1
    few = Report([explain_dataset(explainers[0], x[:2], out=tmp_path / "few", progress=False)]).html()
    assert "Relevance of each column" not in few


def test_wrong_calls() -> None:
    with pytest.raises(InvalidInputError, match=r"names must name 15 features, got 2"):
        columns_figure(VALUES, None, ["a", "b"])
    with pytest.raises(InvalidInputError, match=r"relevance of rows, \(N, F\), got shape \(15,\)"):
        columns_figure(VALUES[0])


def test_a_column_of_one_value_and_constant_inputs_are_drawn() -> None:
    figure = columns_figure(np.zeros((5, 2)), np.ones((5, 2)), narrow=True)
    figure.canvas.draw()
    assert len(figure.axes[1].collections) == 2

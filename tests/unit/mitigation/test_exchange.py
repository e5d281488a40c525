"""Regions exchanged: from every class, the worst shown, moved to where they belong; and penalties that cannot act."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from xaikit import RRR, assess
from xaikit.factors.exchange import transplanted


def spot(n, size, row, column, height=2):
    mask = torch.zeros(n, 1, size, size)
    mask[:, :, row : row + height, column : column + height] = 1
    return mask


def test_a_region_is_moved_to_where_the_mask_is():
    donors, source, target = torch.arange(36.0).view(1, 1, 6, 6), spot(1, 6, 0, 1), spot(1, 6, 3, 4)
    moved = transplanted(donors, source, target)
    assert torch.equal(moved[0, 0, 3:5, 4:6], donors[0, 0, 0:2, 1:3])
    assert torch.equal(transplanted(donors, source, source), donors)
    assert torch.equal(transplanted(donors, 0 * source, target), donors)
    larger = transplanted(donors, source, spot(1, 6, 2, 2, height=4))
    assert larger[0, 0, 2, 2] == larger[0, 0, 3, 3] == donors[0, 0, 0, 1]


@pytest.mark.parametrize("series", [False, True])
def test_windows_of_signals_and_of_series_are_moved(series):
    x = torch.arange(16.0).view(1, 2, 8)  # (N, C, L)
    source, target = torch.zeros(1, 2, 8), torch.zeros(1, 2, 8)
    source[..., 1:3], target[..., 4:8] = 1, 1
    parts = [t.transpose(1, 2) if series else t for t in (x, source, target)]
    moved = transplanted(*parts)
    moved = moved.transpose(1, 2) if series else moved
    assert torch.equal(moved[..., 4:8], x[..., [1, 1, 2, 2]])
    assert torch.equal(moved[..., :4], x[..., :4])


def test_tables_stay():
    x = torch.rand(3, 4)
    assert transplanted(x, torch.eye(4)[:3], torch.eye(4)[1:]) is x


def test_flipped_is_the_worst_class_and_the_verdict_says_so():
    # Of five classes, only the region of class 3 moves predictions, to class 3.
    model = nn.Linear(6, 5)
    model.weight.data, model.bias.data = torch.zeros(5, 6), torch.zeros(5)
    model.weight.data[:, :5] = torch.eye(5)
    model.weight.data[3, 5] = 5
    y = torch.arange(40) % 5
    x = torch.cat([nn.functional.one_hot(y, 5).float(), (y == 3).float()[:, None]], 1)
    mask = torch.tensor([0.0, 0, 0, 0, 0, 1])
    found = assess(model, (x, y), shortcut_masks=mask, progress=False)
    assert found.accuracy["kept"] == 1
    assert found.accuracy["flipped"] == pytest.approx(0.2)  # class 3 itself keeps its own feature
    assert found.groups["flipped"][3] == 1
    assert found.verdict.startswith("still relies on it: 80.0 % of predictions")
    model.weight.data[3, 5] = 0
    assert assess(model, (x, y), shortcut_masks=mask, progress=False).verdict.startswith("does not rely on it: 0.0 %")


def sure_model(outputs):
    torch.manual_seed(0)
    x = torch.randn(64, 4)
    x[:, 0] = x[:, 0].sign() * 3
    model = nn.Linear(4, outputs)
    model.weight.data.zero_()
    model.weight.data[-1, 0] = 9.0
    return model, x, (x[:, 0] > 0).long()


@pytest.mark.parametrize(
    "settings", [{}, {"output": "probability"}, {"target": "predicted"}, {"warmup": 1.0}, {"explainer": "smoothgrad"}]
)
def test_a_sure_model_under_a_flat_score_is_warned_of(settings):
    model, x, y = sure_model(2)
    with pytest.warns(UserWarning, match="output='logit'"):
        RRR(n_epochs=2, random_state=0, **settings).fit(model, x, y, torch.tensor([1.0, 0, 0, 0]), progress=False)


@pytest.mark.parametrize("settings", [{"output": "logit"}, {"target": "random"}, {"target": "all"}, {"lambda_rrr": 0}])
def test_a_score_that_is_not_flat_is_not_warned_of(settings):
    model, x, y = sure_model(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RRR(n_epochs=2, random_state=0, **settings).fit(model, x, y, torch.tensor([1.0, 0, 0, 0]), progress=False)


def test_one_logit_is_its_own_score_and_a_model_that_is_not_sure_yet_is_let_be():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for outputs, scale in ((1, 1.0), (2, 0.0)):
            model, x, y = sure_model(outputs)
            model.weight.data *= scale
            RRR(n_epochs=1, random_state=0).fit(model, x, y, torch.tensor([1.0, 0, 0, 0]), progress=False)

"""`mend` with a training that is too short: a model that lost what it had learnt is not called mended."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.mitigation import mend
from xaikit.mitigation.budget import read_budget
from xaikit.mitigation.mend_data import read_data, read_shortcut
from xaikit.mitigation.mend_methods import candidates
from xaikit.mitigation.mend_result import MendTry
from xaikit.mitigation.mend_search import Attempt, MendSearch, SearchOptions

N = 400
MASK = [1, 0, 0, 0, 0]


def world() -> tuple[np.ndarray, list[int]]:
    """A table of two classes: column 0 tells them, columns 1 and 2 nearly do."""
    rng = np.random.default_rng(0)
    y = np.arange(N) % 2
    x = rng.normal(size=(N, 5)).astype("float32")
    x[:, 1:3] += 1.5 * (2 * y - 1)[:, None]
    x[:, 0] = 3.0 * (2 * y - 1)
    return x, y.tolist()


def model_of(weights: list[float]) -> nn.Module:
    """A linear model whose second logit is that sum of the columns."""
    model = nn.Linear(5, 2)
    with torch.no_grad():
        model.weight.copy_(torch.stack([torch.zeros(5), torch.tensor(weights)]))
        model.bias.zero_()
    return model


@pytest.mark.parametrize(
    ("shortcut", "method"),
    [
        (MASK, "counterexamples:lambda_ce=100,fill=region,lr=1e-6"),
        ("column:indices=[0]", "counterexamples:lambda_ce=100,lr=1e-6"),
        (np.array(MASK, dtype=bool), "rrr:target=random,output=logit,lr=1e-6"),
    ],
)
def test_worse_than_before_is_not_mended(shortcut, method):
    x, y = world()
    model = model_of([1.0, 2.0, 2.0, 0.0, 0.0])  # mostly honest: .85 right with the shortcut exchanged
    untrained = lambda: model_of([0.01, 0.4, 0.0, 1.0, 1.0])  # noqa: E731
    result = mend(model, (x, y), shortcut, methods=[method], n_epochs=1, from_scratch=untrained, progress=False)
    assert result.chosen.accuracy_exchanged < result.tries[0].accuracy_exchanged - 0.1  # lost by the training
    assert "less right than the model as it came" in result.chosen.note
    assert result.verdict.startswith("not mended: ")
    assert "(epochs: 1; set n_epochs= higher)" in result.verdict


def test_many_points_lost_are_said_first():
    x, y = world()
    before = model_of([5.0, 0.0, 0.0, 0.0, 0.0])  # relies on the shortcut alone: right for none with it exchanged
    weak = lambda: model_of([0.0, 0.1, 0.0, 0.2, 0.0])  # noqa: E731
    method = "counterexamples:lambda_ce=100,fill=region,lr=1e-6"
    result = mend(before, (x, y), MASK, methods=[method], n_epochs=1, from_scratch=weak, progress=False)
    lost = result.tries[0].accuracy_kept - result.chosen.accuracy_kept
    assert lost > 0.1
    assert result.verdict.startswith(
        f"does not rely on it any more, but is {100 * lost:.1f} points less right with it kept: "
    )
    mended = dataclasses.replace(result.chosen, accuracy_kept=0.95, accuracy_exchanged=0.95)
    kept = dataclasses.replace(result, tries=[result.tries[0], mended])
    assert kept.verdict.startswith("does not rely on it any more: ")
    assert math.isclose(kept.tries[0].accuracy_kept, 1.0)


@pytest.mark.parametrize(
    ("change", "n_tried"),
    [
        ({"changed": 0.09}, 1),  # it leaves a gap of 6 points, which a smaller weight would widen
        ({"changed": 0.5}, 2),  # it never left the shortcut
        ({"note": "it collapsed to one class"}, 2),
        ({"accuracy_exchanged": 0.875, "changed": 0.03}, 1),  # 2.5 points, of which 0.9 are a standard error: good
    ],
)
def test_a_smaller_weight_is_tried_where_the_larger_one_went_too_far(monkeypatch, change, n_tried):
    x, y = torch.randn(2000, 4, generator=torch.Generator().manual_seed(0)), torch.arange(2000) % 2
    model = nn.Linear(4, 2)
    data = read_data(model, (x, y), read_shortcut("column:indices=[0]"), None, None, 0)
    search = MendSearch(model, data, SearchOptions(False, 0.02, "logits", 0, False))
    row = dataclasses.replace(MendTry("counterexamples", 0.9, 0.84, 0.09), **change)
    monkeypatch.setattr(search, "_try", lambda _: search.tries.append(row))
    methods = candidates(data)
    assert methods[1].lambda_ce < methods[0].lambda_ce
    search.run([Attempt(methods[0]), Attempt(methods[1], weaker=True)], read_budget(None))
    assert len(search.tries) - 1 == n_tried

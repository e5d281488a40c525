"""Ranges of values: right, read once, and never out of date."""

from __future__ import annotations

import math

import pytest
import torch

from xaikit import RRR
from xaikit.core import value_ranges
from xaikit.core.errors import InvalidInputError
from xaikit.core.value_ranges import ValueRange, range_of, ranges_known, read_ranges


def test_ranges_of_numbers_booleans_expanded_and_empty_tensors():
    tensors = [torch.tensor([3, -2]), torch.tensor([True]), torch.tensor([[0.5, 2.0]]).expand(4, 2), torch.empty(0, 3)]
    assert read_ranges(tensors) == [(-2, 3), (1, 1), (0.5, 2), (0, 0)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_is_seen(value):
    x = torch.zeros(3, 5)
    x[2, 1] = value
    assert not range_of(x).finite
    assert range_of(x.nan_to_num()).finite


def test_inside_a_known_range_is_not_read_again(monkeypatch):
    x = torch.tensor([1.0, 4.0])
    with ranges_known([x]):
        monkeypatch.setattr(torch, "aminmax", None)  # a second look would fail
        assert range_of(x) == (1, 4)
        assert range_of(x[None, :, None]) == range_of(x.expand(3, 2)) == (1, 4)  # the same values in other forms
    with ranges_known([x], [ValueRange(0.0, 9.0)]):
        assert range_of(x) == (0, 9)


def test_a_tensor_that_changed_or_a_part_of_it_is_read_again():
    x = torch.tensor([1.0, 4.0])
    with ranges_known([x]):
        assert range_of(x[:1]) == (1, 1)
        x[0] = math.nan
        assert not range_of(x).finite
    assert not value_ranges._KNOWN.get()


def test_inference_tensors_are_read():
    with torch.inference_mode():
        x = torch.tensor([1.0, 4.0])
    with ranges_known([x]):
        assert range_of(x) == (1, 4)


def test_a_loader_batch_with_a_label_out_of_range_is_refused_in_the_step():
    model = torch.nn.Linear(3, 2)
    batches = [(torch.rand(4, 3), torch.tensor([0, 1, 1, 0]), torch.ones(3))] * 2
    batches.append((torch.rand(4, 3), torch.tensor([0, 1, 2, 0]), torch.ones(3)))
    with pytest.raises(InvalidInputError, match=r"0\.\.1"):
        RRR(n_epochs=1).fit(model, batches, progress=False)


def test_a_regression_may_have_a_step_whose_numbers_are_all_0_and_1():
    x, y = torch.rand(8, 3), torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 2.5])
    history = RRR(n_epochs=2, batch_size=2, random_state=0).fit(torch.nn.Linear(3, 1), x, y, torch.ones(3) * 0.5)
    assert math.isfinite(history["task"][-1])

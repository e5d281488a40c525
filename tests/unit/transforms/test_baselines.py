"""Baselines against their definitions."""

from __future__ import annotations

import pytest
import torch

from xaikit.core import BASELINES
from xaikit.core.errors import InvalidInputError, InvalidTypeError


def test_values():
    x = torch.rand(2, 3, 4, 5)
    assert not BASELINES.create("zeros")(x).any()
    assert torch.equal(BASELINES.create(0.5)(x), torch.full_like(x, 0.5))
    assert torch.allclose(BASELINES.create("mean")(x)[1, 2], x[1, 2].mean().expand(4, 5))
    assert torch.allclose(BASELINES.create("mean")(torch.tensor([[1.0, 3.0]])), torch.tensor([[2.0, 2.0]]))
    given = torch.rand(3, 4, 5)
    assert torch.equal(BASELINES.create(given)(x)[1], given)


def test_uniform_stays_in_range_and_repeats():
    x = torch.rand(2, 3, 4) * torch.tensor([1.0, 10.0])[:, None, None]
    noise = BASELINES.create("uniform")(x)
    assert torch.equal(noise, BASELINES.create("uniform")(x))
    assert torch.equal(noise[1:], BASELINES.create("uniform")(x[1:]))
    for sample, drawn in zip(x, noise, strict=True):
        assert sample.min() <= drawn.min()
        assert drawn.max() <= sample.max()


def test_wrong_ones():
    with pytest.raises(InvalidInputError, match=r"shape of one sample \(3,\) or of the batch \(2, 3\), got \(4,\)"):
        BASELINES.create(torch.zeros(4))(torch.zeros(2, 3))
    with pytest.raises(InvalidTypeError, match="expected baseline"):
        BASELINES.create(object())

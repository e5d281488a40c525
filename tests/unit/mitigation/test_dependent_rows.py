"""Models whose rows see each other are judged on exchanged data with a warning; others without."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from xaikit import assess
from xaikit.shortcuts import scan


class Centred(nn.Module):
    """Its logits are those of each row less the mean row's: also the samples of a graph, or of a contrast, do so."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        z = self.out(x)
        return z - z.mean(0)


class Whole(nn.Linear):
    """It takes batches of 32 alone, and its rows do not see each other."""

    def forward(self, x):
        return super().forward(x.reshape(32, 4))


class Drawing(nn.Linear):
    """It drops some of its inputs in evaluation mode, too."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.5, training=True))


DATA = torch.randn(64, 4, generator=torch.Generator().manual_seed(1)), torch.arange(64) % 2
BATCHES = [(DATA[0][:32], DATA[1][:32]), (DATA[0][32:], DATA[1][32:])]
MASK = torch.tensor([1.0, 0, 0, 0])
CALLS = {
    "assess": lambda model, data: assess(model, data, shortcut_masks=MASK, progress=False),
    "scan": lambda model, data: scan(model, data, progress=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_rows_that_see_each_other_are_told(name):
    with pytest.warns(UserWarning, match="the rows of this Centred are not independent.*batches of one sample show"):
        CALLS[name](Centred(), BATCHES)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("make", [lambda: nn.Linear(4, 2), lambda: Whole(4, 2), lambda: Drawing(4, 2)])
def test_others_are_not(name, make):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CALLS[name](make(), BATCHES)


@pytest.mark.parametrize("name", CALLS)
def test_one_sample_at_a_time_is_alone(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CALLS[name](Centred(), [(x[None], y[None]) for x, y in zip(*DATA, strict=True)])

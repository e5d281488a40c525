"""Seconds and peak memory: of a known allocation, and in proportion."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from xaikit.core import Explainer
from xaikit.metrics import PeakMemory, Seconds
from xaikit.metrics.cost import peak_memory


class Work(Explainer):
    """Holds a block of known size and sleeps."""

    mebibytes: int = 1
    pause: float = 0.0

    def _attribute(self, call):
        block = torch.zeros(self.mebibytes * 2**18)
        time.sleep(self.pause)
        return tuple(x + 0 * block[0] for x in call.inputs)


def test_memory_of_a_known_block():
    model, x = nn.Linear(4, 1), torch.rand(3, 4)
    found = PeakMemory().evaluate(Work(model, mebibytes=20), x)
    assert found.shape == (3,)
    assert found.tolist() == pytest.approx([20.0] * 3, abs=0.05)
    twice = PeakMemory().evaluate(Work(model, mebibytes=40), x)
    assert (twice - found).tolist() == pytest.approx([20.0] * 3, abs=0.01)


def test_memory_that_is_given_back_counts_once():
    def in_turn():
        for _ in range(5):
            torch.ones(2**18)

    assert peak_memory(in_turn) == pytest.approx(1, abs=0.05)


def test_measuring_writes_nothing(capfd):
    PeakMemory().evaluate(Work(nn.Linear(4, 1)), torch.rand(3, 4))
    assert capfd.readouterr() == ("", "")


def test_seconds_are_the_clocks_divided_by_the_samples():
    model, x = nn.Linear(4, 1), torch.rand(5, 4)
    found = Seconds(n_iter=1).evaluate(Work(model, pause=0.05), x)
    assert found.shape == (5,)
    assert len(set(found.tolist())) == 1
    assert found[0] >= 0.05 / 5  # sleeping is never shorter than asked

"""A small model and its data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.unit.runs.small_runs import N


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)).eval()


@pytest.fixture
def data():
    torch.manual_seed(1)
    return torch.randn(N, 3, 2, 2), torch.randint(3, (N,))

"""Models that torch itself cannot differentiate end in a sentence."""

import pytest
import torch
from torch import nn

from xaikit import Gradient
from xaikit.core.errors import NotDifferentiableError


def test_what_torch_cannot_differentiate_is_told():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(6, 3, batch_first=True), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.rnn(x)[0].mul_(0.7).mean(1))  # torch keeps the output of a float32 LSTM

    with pytest.raises(NotDifferentiableError, match=r"writes in place into .*x = x \* 2 in place of x.mul_\(2\)"):
        Gradient(Recurrent()).attribute(torch.randn(3, 4, 6), 0)

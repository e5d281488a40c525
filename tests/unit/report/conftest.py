"""What the tests of the report share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


class Text(nn.Module):
    """Token ids (N, T) to two classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """The mean of the embeddings, mapped."""
        return self.out(self.embedding(tokens).mean(1))


@pytest.fixture(scope="module")
def text_net() -> nn.Module:
    """A small net that reads token ids."""
    torch.manual_seed(0)
    return Text()

"""One architecture of the zoo, and the inputs that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """How to build a model and a batch of two samples.

    `embedding` gives the embedding layer of a model that takes token ids; such a model also has `from_emb`, which runs
    it from its embeddings on.
    """

    build: Callable[[], nn.Module]
    make_input: Callable[[], Tensor]
    embedding: Callable[[nn.Module], nn.Module] | None = None

    @property
    def is_text(self) -> bool:
        """Whether the model takes token ids."""
        return self.embedding is not None


def images(side: int) -> Callable[[], Tensor]:
    """Makes two RGB images of this side."""
    return lambda: torch.randn(2, 3, side, side)


def token_ids() -> Tensor:
    """Two texts of twelve tokens, from a vocabulary of 100."""
    return torch.randint(5, 100, (2, 12))

"""Mean and covariance over samples that come in parts."""

from __future__ import annotations

import torch
from torch import Tensor


class RunningMoments:
    """Mean, and sums of squared deviations (F,) or of their products (F, F), without the numerical loss of plain sums.

    Chan, Golub, LeVeque 1979. `n` counts the samples, `mean` is (F,), `squares` the sums.

    Args:
        pairs: sum the products of all pairs of columns.
    """

    def __init__(self, *, pairs: bool) -> None:
        self.n, self._pairs = 0, pairs
        self.mean = torch.zeros((), device="cpu")
        self.squares = torch.zeros((), device="cpu")

    def add(self, values: Tensor) -> None:
        """Count some samples.

        Args:
            values: (n, F).
        """
        count = len(values)
        mean = values.mean(0)
        centred = values - mean
        step = mean - self.mean
        total = self.n + count
        weight = self.n * count / total
        if self._pairs:
            shift = step.outer(step) if self.n else torch.zeros((), device="cpu")
            self.squares = self.squares + centred.T @ centred + shift * weight
        else:
            self.squares = self.squares + centred.square().sum(0) + step.square() * weight
        self.mean = self.mean + step * (count / total)
        self.n = total

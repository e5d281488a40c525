"""Poolings: the attributions of a place's channels joined into one number.

The names are those of pnpxai, where they exist there; they read in the order of the operations, so `possum` sums
positive parts and `sumpos` takes the positive part of the sum.
"""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.configured import Configured
from xaikit.core.registries import POOLINGS


class Pooling(Configured, abc.ABC):
    """Joins the channels a_1, ..., a_C of each place.

    `JOINS` is False where every channel keeps a value of its own.
    """

    REGISTRY: ClassVar[Any] = POOLINGS
    JOINS: ClassVar[bool] = True

    def __call__(self, attribution: Tensor, axis: int | None) -> Tensor:
        """The attribution (N, ...) with size 1 at `axis`; None counts every feature as a place with one channel."""
        if axis is None:
            return self._pool(attribution[..., None], -1)[..., 0]
        return self._pool(attribution, axis)

    @abc.abstractmethod
    def _pool(self, a: Tensor, axis: int) -> Tensor:
        """The formula along the axis, which it keeps."""


@POOLINGS.register("none")
class Separate(Pooling):
    """Every channel unchanged: a."""

    JOINS = False

    def _pool(self, a: Tensor, axis: int) -> Tensor:  # noqa: ARG002
        return a


@POOLINGS.register("abs")
class Abs(Pooling):
    """The absolute value of every channel: |a|."""

    JOINS = False

    def _pool(self, a: Tensor, axis: int) -> Tensor:  # noqa: ARG002
        return a.abs()


@POOLINGS.register("positive")
class Positive(Pooling):
    """The positive part of every channel: max(a, 0)."""

    JOINS = False

    def _pool(self, a: Tensor, axis: int) -> Tensor:  # noqa: ARG002
        return a.clamp_min(0)


@POOLINGS.register("sum")
class Sum(Pooling):
    """Sum of a: the contribution of the position, for attributions that add up to the score."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.sum(axis, keepdim=True)


@POOLINGS.register("mean")
class MeanPooling(Pooling):
    """Mean of a."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.mean(axis, keepdim=True)


@POOLINGS.register("max")
class Max(Pooling):
    """Largest a."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.amax(axis, keepdim=True)


@POOLINGS.register("min")
class Min(Pooling):
    """Smallest a."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.amin(axis, keepdim=True)


@POOLINGS.register("sumpos")
class SumPos(Pooling):
    """The positive part of the sum: max(sum of a, 0)."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.sum(axis, keepdim=True).clamp_min(0)


@POOLINGS.register("sumabs")
class SumAbs(Pooling):
    """The absolute value of the sum: |sum of a|."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.sum(axis, keepdim=True).abs()


@POOLINGS.register("l1norm")
class L1Norm(Pooling):
    """Sum of |a|."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.abs().sum(axis, keepdim=True)


@POOLINGS.register("maxnorm")
class MaxNorm(Pooling):
    """Largest |a|."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.abs().amax(axis, keepdim=True)


@POOLINGS.register("l2norm")
class L2Norm(Pooling):
    """Square root of the sum of a²."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        # Unlike a square root, this norm has a finite derivative where every channel is zero.
        return torch.linalg.vector_norm(a, dim=axis, keepdim=True)


@POOLINGS.register("l2normsq")
class L2NormSquared(Pooling):
    """Sum of a²."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.square().sum(axis, keepdim=True)


@POOLINGS.register("possum")
class PosSum(Pooling):
    """Sum of max(a, 0)."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.clamp_min(0).sum(axis, keepdim=True)


@POOLINGS.register("posmaxnorm")
class PosMaxNorm(Pooling):
    """Largest max(a, 0)."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.clamp_min(0).amax(axis, keepdim=True)


@POOLINGS.register("posl2norm")
class PosL2Norm(Pooling):
    """Square root of the sum of max(a, 0)²."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return torch.linalg.vector_norm(a.clamp_min(0), dim=axis, keepdim=True)


@POOLINGS.register("posl2normsq")
class PosL2NormSquared(Pooling):
    """Sum of max(a, 0)²."""

    def _pool(self, a: Tensor, axis: int) -> Tensor:
        return a.clamp_min(0).square().sum(axis, keepdim=True)

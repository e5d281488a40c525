"""Baselines: what an input looks like when a feature is absent."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.configured import Configured
from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Float, Int
from xaikit.core.registries import BASELINES


class Baseline(Configured, abc.ABC):
    """Makes an uninformative stand-in of the shape of an input."""

    REGISTRY: ClassVar[Any] = BASELINES

    @abc.abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The stand-in of a batch (N, ...), of the same shape, dtype and device."""


@BASELINES.register("zeros")
class Zeros(Baseline):
    """Zero everywhere."""

    def __call__(self, x: Tensor) -> Tensor:
        """Zeros like `x`."""
        return torch.zeros_like(x)


@BASELINES.register("constant")
class Constant(Baseline):
    """The same number everywhere."""

    value: Annotated[float, Float(), "the number"] = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """`value` like `x`."""
        return torch.full_like(x, self.value)


@BASELINES.register("mean")
class Mean(Baseline):
    """Each sample's mean over its positions, channel by channel (over everything where there is no channel axis)."""

    def __call__(self, x: Tensor) -> Tensor:
        """The mean over the axes from 2 on, or over axis 1 for inputs (N, features)."""
        axes = tuple(range(2, x.ndim)) if x.ndim > 2 else (1,)
        return x.mean(axes, keepdim=True).expand_as(x) if x.ndim > 1 else x


@BASELINES.register("uniform")
class Uniform(Baseline):
    """Uniform noise within each sample's range, the same draw for every sample."""

    random_state: Annotated[int, Int(ge=0), "seed of the draw"] = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Noise of the shape of one sample, scaled to each sample's range."""
        generator = torch.Generator().manual_seed(self.random_state)
        unit = torch.rand(x.shape[1:], generator=generator, dtype=torch.float32).to(x)
        axes = tuple(range(1, x.ndim))
        low, high = x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
        return low + (high - low) * unit


@BASELINES.register("given")
class Given(Baseline):
    """A tensor of the user's own, of the shape of one sample or of the batch."""

    tensor: Annotated[Tensor, "the stand-in, (...) or (N, ...)"]

    def __call__(self, x: Tensor) -> Tensor:
        """The tensor, expanded to `x`.

        Raises:
            InvalidInputError: when it does not broadcast to the shape of `x`.
        """
        try:
            return self.tensor.to(x).expand_as(x)
        except RuntimeError:
            raise InvalidInputError(
                f"the baseline tensor must have the shape of one sample {tuple(x.shape[1:])} "
                f"or of the batch {tuple(x.shape)}, got {tuple(self.tensor.shape)}"
            ) from None


@BASELINES.coerce
def from_value(value: Any) -> Baseline | None:
    """The baseline meant by a number or a tensor; None for anything else."""
    if isinstance(value, Tensor):
        return Given(tensor=value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Constant(value=value)
    return None

"""Feature masks: which elements of an input belong together, as integer group ids."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.configured import Configured
from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Int
from xaikit.core.registries import FEATURE_MASKS


class FeatureMask(Configured, abc.ABC):
    """Assigns the elements of each sample to groups."""

    REGISTRY: ClassVar[Any] = FEATURE_MASKS

    @abc.abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Group ids 0, 1, ... of a batch (N, ...): integers (N, ...), or (1, ...) where all samples share them."""


def _along(x: Tensor, dim: int, ids: Tensor) -> Tensor:
    """The ids of positions along one dimension, for every element of a sample."""
    shape = [1] * x.ndim
    shape[dim] = -1
    return ids.to(x.device).view(shape).expand(1, *x.shape[1:])


def _windows(length: int, size: int) -> Tensor:
    return torch.arange(length) // size


@FEATURE_MASKS.register("grid")
class Grid(FeatureMask):
    """Square patches of an image (N, C, H, W), all channels together; the last row and column may be cut."""

    n_patches: Annotated[int, Int(low=4, high=16, step=1, ge=1), "patches along the longer side"] = 7

    def __call__(self, x: Tensor) -> Tensor:
        """Patch by patch, row by row."""
        if x.ndim != 4:
            raise InvalidInputError(f"a grid divides images (N, C, H, W), got a tensor of shape {tuple(x.shape)}")
        height, width = x.shape[-2:]
        size = -(-max(height, width) // self.n_patches)
        rows, columns = _windows(height, size), _windows(width, size)
        ids = rows[:, None] * int(columns[-1] + 1) + columns
        return ids.to(x.device).expand(1, *x.shape[1:])


@FEATURE_MASKS.register("tokens")
class Tokens(FeatureMask):
    """One group for each position of a sequence (N, T) or (N, T, features)."""

    def __call__(self, x: Tensor) -> Tensor:
        """The position along axis 1."""
        if x.ndim < 2:
            raise InvalidInputError(f"tokens stand in sequences (N, T, ...), got a tensor of shape {tuple(x.shape)}")
        return _along(x, 1, torch.arange(x.shape[1]))


@FEATURE_MASKS.register("time_windows")
class TimeWindows(FeatureMask):
    """Stretches of a time series (N, channels, T) or (N, T), all channels together."""

    n_windows: Annotated[int, Int(low=4, high=32, step=1, ge=1), "windows in the series"] = 8

    def __call__(self, x: Tensor) -> Tensor:
        """The window along the last axis."""
        if x.ndim < 2:
            raise InvalidInputError(
                f"a time series is (N, channels, T) or (N, T), got a tensor of shape {tuple(x.shape)}"
            )
        return _along(x, -1, _windows(x.shape[-1], -(-x.shape[-1] // self.n_windows)))


@FEATURE_MASKS.register("columns")
class Columns(FeatureMask):
    """One group for each column of a table (N, features)."""

    def __call__(self, x: Tensor) -> Tensor:
        """The column."""
        if x.ndim != 2:
            raise InvalidInputError(f"a table is (N, features), got a tensor of shape {tuple(x.shape)}")
        return _along(x, 1, torch.arange(x.shape[1]))


@FEATURE_MASKS.register("auto")
class Auto(FeatureMask):
    """By the form of the input: tokens for integers, a grid for images, windows for series, columns for tables."""

    def __call__(self, x: Tensor) -> Tensor:
        """The ids of the mask that suits `x`; other forms get one group for each position behind the channels."""
        if not x.is_floating_point():
            return Tokens()(x)
        by_rank: dict[int, FeatureMask] = {2: Columns(), 3: TimeWindows(), 4: Grid()}
        if x.ndim in by_rank:
            return by_rank[x.ndim](x)
        inner = x.shape[2:] if x.ndim > 2 else x.shape[1:]
        return torch.arange(inner.numel(), device=x.device).view(inner).expand(1, *x.shape[1:])

"""Which axis of an input holds its channels, and which hold its positions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from xaikit.core.channel_axes import default_axis
from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Int

CHANNEL_AXIS = "axis of the channels; None: as the form of images and the model's first layer tell, else 1"


def axis_setting(value: Any, where: str) -> Any:
    """Check the setting: None, or an axis that is not the batch's."""
    if value is None or Int().check(value, where) != 0:
        return value
    raise InvalidInputError(f"{where} must not be 0, which is the batch axis")


def channel_axis(x: Tensor, axis: int | None) -> int | None:
    """The axis of the channels of a batch (N, ...), counted from the front, or None where there is none.

    Raises:
        InvalidInputError: for an axis that a sample does not have.
    """
    if x.ndim < 3:
        return None
    axis = default_axis(x) if axis is None else axis
    if not -x.ndim < axis < x.ndim:
        raise InvalidInputError(f"channel_axis={axis} is no axis of a sample of inputs shaped {tuple(x.shape)}")
    return axis % x.ndim


def place_axes(x: Tensor, axis: int | None) -> tuple[int, ...]:
    """The axes of the places: those that are neither the batch's nor the channels'."""
    channels = channel_axis(x, axis)
    return tuple(d for d in range(1, x.ndim) if d != channels)

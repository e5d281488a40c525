"""Images without their batch axis, or with their channels last: how they are told, and what to pass instead."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors

# The axis of each layer's weight that has as many entries as the layer has input channels.
CHANNELS: dict[Any, int] = {f: 1 for f in (torch.conv1d, torch.conv2d, torch.conv3d)}
CHANNELS |= {f: 0 for f in (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)}
GROUPS = 6  # the position of `groups` among the arguments of a convolution that is not transposed


def has_channels_last(x: Tensor) -> bool | None:
    """Whether images (N, ...) of two axes of places hold their channels last; None where their form tells neither.

    Args:
        x: images, or maps of their form.
    """
    channels = (1, 3, 4)
    if x.shape[1] in channels or x.shape[3] not in channels or x.shape[2] in channels:
        return False
    return True if x.shape[3] == 3 or x.shape[1] == x.shape[2] else None


def channels_first(image: Any) -> Any:
    """An image, or a map of its form, as (C, H, W), where its form says that the channels are last; else as it is.

    Args:
        image: of one sample, a tensor or an array of three axes.
    """
    return image.swapaxes(1, 2).swapaxes(0, 1) if has_channels_last(image[None]) else image


class BatchedImages(TorchFunctionMode):
    """Refuses an image without its batch axis, which a convolution takes as one sample.

    The axis of channels would pass for the one of samples, and a sum over classes for a score.

    Args:
        inputs: what the model is called with while this is active.
    """

    def __init__(self, inputs: Tensors) -> None:
        super().__init__()
        self._shapes = [x.shape for x in inputs]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        axis = CHANNELS.get(func)
        if axis is not None:
            operands = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
            channels = operands["weight"].shape[axis]
            if axis == 1:
                channels *= operands.get("groups", args[GROUPS] if len(args) > GROUPS else 1)
            _check(operands["input"], channels, operands["weight"].ndim, self._shapes)
        return func(*args, **(kwargs or {}))


def _check(x: Any, channels: int, axes: int, shapes: list[torch.Size]) -> None:
    if isinstance(x, Tensor) and x.ndim == axes - 1 and any(len(s) == x.ndim and s[0] == x.shape[0] for s in shapes):
        hint = order_hint(channels, axes, x)
        raise InvalidInputError(f"the model takes inputs of shape {tuple(x.shape)} for one sample{hint}")


def order_hint(channels: int, axes: int, x: Tensor) -> str:
    """How the axes of an image differ from what a convolution takes; empty where they do not.

    Args:
        channels: that the convolution takes.
        axes: of its inputs, batch and channels among them.
        x: the image.
    """
    places = {3: "length", 4: "height, width", 5: "depth, height, width"}[axes]
    form = f"; its first convolution takes (N, {channels}, {places})"
    missing = axes - x.ndim
    if missing == 0 and x.shape[1] != channels:
        last = x.shape[-1] == channels
        return f"{form}, so the channels are last: pass inputs.movedim(-1, 1)" if last else form
    if missing == 1:
        return form + _missing_axis(x, channels)
    if missing == 2 and channels == 1:
        return f"{form}, so the batch axis and that of channels are missing: pass inputs[None, None] for one sample"
    return f"{form}, so axes are missing" if missing > 0 else ""


def _missing_axis(x: Tensor, channels: int) -> str:
    if x.shape[0] == channels:
        return ", so the batch axis is missing: pass inputs[None] for one sample"
    if x.shape[-1] == channels:
        return ", so the batch axis is missing and the channels are last: pass inputs.movedim(-1, 0)[None]"
    return ", so the axis of channels is missing: pass inputs[:, None]" if channels == 1 else ", so an axis is missing"

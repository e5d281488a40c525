"""Images without their batch axis, or with their channels last: refused, with what to pass instead."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaikit.core import torch_private
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors

CONVOLUTIONS = frozenset({torch.conv1d, torch.conv2d, torch.conv3d})


class _Batched(TorchFunctionMode):
    """Watches the convolutions that a model calls as functions."""

    def __init__(self, shapes: list[torch.Size]) -> None:
        super().__init__()
        self._shapes = shapes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        if func in CONVOLUTIONS:
            operands = dict(zip(("input", "weight"), args, strict=False)) | (kwargs or {})
            weight, groups = operands["weight"], operands.get("groups", args[6] if len(args) > 6 else 1)  # noqa: PLR2004
            _check(operands["input"], weight.shape[1] * groups, weight.ndim, self._shapes)
        return func(*args, **(kwargs or {}))


def refuse_unbatched(
    modules: Iterable[nn.Module], inputs: Tensors, operations: set[Any]
) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Let a private copy refuse an image without its batch axis, which a convolution takes as one sample.

    The axis of channels would pass for the one of samples, and a sum over classes for a score.

    Args:
        modules: of the copy, the first convolution of which gets a hook.
        inputs: what the model is called with.
        operations: the torch functions that the model calls.

    Returns:
        A context for each pass, which refuses where the model calls its convolutions as functions.
    """
    shapes = [x.shape for x in inputs]
    first: Any = next((m for m in modules if isinstance(m, torch_private.Convolution)), None)
    if first is None:
        return contextlib.nullcontext if operations.isdisjoint(CONVOLUTIONS) else lambda: _Batched(shapes)

    def check(convolution: Any, args: tuple[Any, ...]) -> None:
        if args:
            _check(args[0], convolution.in_channels, convolution.weight.ndim, shapes)

    first.register_forward_pre_hook(check)
    return contextlib.nullcontext


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

"""Which axis of images and series holds their channels."""

from __future__ import annotations

from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError
from xaikit.core.image_forms import has_channels_last

SAY_SO = "say so: facts={'channel_axis': 1}, or -1"


def image_axis(x: Tensor) -> int:
    """The axis of the channels of images, by their form.

    Args:
        x: images (N, C, H, W) or (N, H, W, C).

    Raises:
        InvalidInputError: where the form tells neither.
    """
    is_last = has_channels_last(x)
    if is_last is None:
        raise InvalidInputError(f"the channels of images of shape {tuple(x.shape)} could come first or last; {SAY_SO}")
    return -1 if is_last else 1


def series_axis(x: Tensor, model: nn.Module | None) -> int:
    """The axis of the channels of series: that of the channels which the model's first layer takes.

    Args:
        x: series (N, C, T) or (N, T, D).
        model: that takes them; None where nobody knows, which is (N, C, T).

    Raises:
        InvalidInputError: for a model whose first layer does not tell, unless (N, C, T) has as many steps as channels.
    """
    if model is None:
        return 1
    leaves = (m for m in model.modules() if not any(True for _ in m.children()))
    first = next((m for m in leaves if any(True for _ in m.parameters())), None)
    axis, channels = _taken_by(first)
    more_steps_first = x.shape[1] > x.shape[2]
    takes_last = isinstance(first, (nn.Linear, nn.LayerNorm)) and x.shape[2] == channels
    # A linear layer may also run over the steps of each channel.
    if axis is not None and x.shape[axis] == channels and (more_steps_first or not takes_last):
        return axis
    if more_steps_first or takes_last:
        raise InvalidInputError(
            f"series of shape {tuple(x.shape)} could be (N, C, T) or (N, T, D), and the first layer of "
            f"{type(model).__name__} does not tell; {SAY_SO}"
        )
    return 1


def _taken_by(layer: nn.Module | None) -> tuple[int | None, int]:
    """Where a layer has its channels, and how many."""
    if isinstance(layer, nn.Conv1d):
        return 1, layer.in_channels
    if isinstance(layer, (nn.BatchNorm1d, nn.InstanceNorm1d)):
        return 1, layer.num_features
    if isinstance(layer, nn.RNNBase):
        return -1, layer.input_size
    if isinstance(layer, nn.Linear):
        return -1, layer.in_features
    if isinstance(layer, nn.LayerNorm):
        return -1, int(layer.normalized_shape[-1])
    return None, 0

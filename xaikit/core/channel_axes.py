"""Which axis of images and series holds their channels."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError
from xaikit.core.image_forms import has_channels_last

_EXPLAINED: contextvars.ContextVar[tuple[nn.Module | None, frozenset[torch.Size]]] = contextvars.ContextVar(
    "explained", default=(None, frozenset())
)
SAY_SO = "say so: facts={'channel_axis': 1}, or -1"


def image_axis(x: Tensor, model: nn.Module | None = None) -> int:
    """The axis of the channels of images, by the model's first convolution or by their form.

    Args:
        x: images (N, C, H, W) or (N, H, W, C).
        model: that takes them; None where nobody knows.

    Raises:
        InvalidInputError: where the form tells neither.
    """
    is_last = not _convolved_first(x, model) and has_channels_last(x)
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
    axis, takes_last = _axis_of_first_layer(x, model)
    if axis is None and (takes_last or x.shape[1] > x.shape[2]):
        raise InvalidInputError(
            f"series of shape {tuple(x.shape)} could be (N, C, T) or (N, T, D), and the first layer of "
            f"{type(model).__name__} does not tell; {SAY_SO}"
        )
    return axis or 1


@contextlib.contextmanager
def inputs_of(model: nn.Module, inputs: Sequence[Tensor]) -> Iterator[None]:
    """While active, in this thread: series of the form of these are inputs of this model, as `default_axis` sees them.

    Args:
        model: of the user.
        inputs: of the call; what a layer takes or returns may have another order.
    """
    before = _EXPLAINED.set((model, frozenset(x.shape[1:] for x in inputs)))
    try:
        yield
    finally:
        _EXPLAINED.reset(before)


def default_axis(x: Tensor) -> int:
    """The axis of the channels where nobody named it: by the form of images, of series by the model that is explained.

    Args:
        x: (N, ...) of three axes and more.
    """
    model, forms = _EXPLAINED.get()
    if x.ndim == 4:
        return -1 if has_channels_last(x) and not _convolved_first(x, model) else 1
    return 1 if x.ndim != 3 or model is None or x.shape[1:] not in forms else _axis_of_first_layer(x, model)[0] or 1


def _convolved_first(x: Tensor, model: nn.Module | None) -> bool:
    """Whether the model's first convolution takes as many channels as images have on axis 1, and not on the last."""
    convolutions = () if model is None else (m for m in model.modules() if isinstance(m, nn.Conv2d))
    first = next(iter(convolutions), None)
    return first is not None and x.shape[3] != first.in_channels == x.shape[1]


def _axis_of_first_layer(x: Tensor, model: nn.Module) -> tuple[int | None, bool]:
    """Where the first layer takes the channels of series, if it tells; and whether it may take them last."""
    layers = (m for m in model.modules() if isinstance(m, tuple(LAYERS)) or not any(True for _ in m.children()))
    first = next((m for m in layers if any(True for _ in m.parameters())), None)
    axis, channels = _taken_by(first)
    if axis is None or channels not in x.shape[1:]:
        return None, False
    if x.shape[1] != x.shape[2]:  # the size tells which axis it is, also if the model swaps them before its first layer
        axis = 1 if x.shape[1] == channels else -1
    # A linear layer or a norm may also act on the steps of each channel.
    unclear = isinstance(first, (nn.Linear, nn.LayerNorm)) and axis == -1 and x.shape[1] <= x.shape[2]
    return (None, True) if unclear else (axis, axis == -1)


# Where a layer takes its channels, and the name under which it keeps how many.
LAYERS: dict[type[nn.Module], tuple[int, str]] = {
    nn.Conv1d: (1, "in_channels"), nn.BatchNorm1d: (1, "num_features"), nn.InstanceNorm1d: (1, "num_features"),
    nn.RNNBase: (-1, "input_size"), nn.Linear: (-1, "in_features"), nn.LayerNorm: (-1, "normalized_shape"),
    nn.Embedding: (-1, "embedding_dim"),  # the model takes vectors in place of tokens
}  # fmt: skip


def _taken_by(layer: nn.Module | None) -> tuple[int | None, int]:
    """Where a layer has its channels, and how many."""
    for kind, (axis, name) in LAYERS.items():
        if isinstance(layer, kind):
            channels = getattr(layer, name)
            return axis, int(channels[-1] if isinstance(channels, tuple) else channels)
    return None, 0

"""Which axis of a layer's output holds its channels, where nobody named it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.channel_axes import default_axis, inputs_of
from xaikit.core.errors import InvalidInputError
from xaikit.core.layers import LayerPoint

CONVOLUTION = torch_private.Convolution
CHANNELS_FIRST = (
    *(CONVOLUTION, torch_private.RunningNorm, nn.GroupNorm),
    *(torch_private.MaxPool, torch_private.AvgPool, torch_private.Dropout),
)
CHANNELS_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)
ADAPTED = "base_layer"  # where adapters (peft's LoRA) keep the layer that they change
# Where a layer returns its channels, and the name under which it keeps how many.
WIDTHS: dict[type[nn.Module], tuple[int, str]] = {
    CONVOLUTION: (1, "out_channels"), torch_private.RunningNorm: (1, "num_features"), nn.GroupNorm: (1, "num_channels"),
    nn.Linear: (-1, "out_features"), nn.LayerNorm: (-1, "normalized_shape"), nn.RMSNorm: (-1, "normalized_shape"),
    nn.Embedding: (-1, "embedding_dim"), nn.MultiheadAttention: (-1, "embed_dim"), nn.RNNBase: (-1, "hidden_size"),
}  # fmt: skip


def layer_channel_axis(model: nn.Module, point: LayerPoint, a: Tensor, inputs: Sequence[Tensor]) -> int:
    """The axis of the channels in what a layer returns.

    Of images it is told by the layer's kind and the image's proportions, and vectors of patches (N, T, D) have them
    last. Else the layer, or the nearest one before it whose number of channels is that of an axis, tells: convolutions
    and their norms have them first, (N, C, T); linear layers, LayerNorm, embeddings, attention and recurrent nets last.

    Args:
        model: that holds the layer.
        point: the layer.
        a: what it returns, (N, ...).
        inputs: of the model.

    Raises:
        InvalidInputError: for an output without channels, or where nothing tells.
    """
    if a.ndim < 2:
        raise InvalidInputError(f"layer {point.name!r} returns {tuple(a.shape)}, which has no channels; name another")
    if a.ndim == 2:
        return 1
    image = next((x for x in inputs if x.ndim > 3 and x.is_floating_point()), None)
    if image is not None:
        with inputs_of(model, inputs):
            image = image.movedim(default_axis(image), 1)
    module = point.module
    while point.is_input and isinstance(module, nn.Sequential) and len(module):
        module = module[0]
    axis = axis_by_form(module, a, image)
    axis = _axis_by_width(model, point, a) if axis is None else axis
    if axis is None:
        raise unknown_axis(point.name, a)
    return axis


def axis_by_form(module: nn.Module, a: Tensor, image: Tensor | None) -> int | None:
    """The axis of the channels, by the kind of the layer or else by the image's proportions; None if neither tells.

    Args:
        module: the layer.
        a: its activations (N, ...).
        image: the input (N, channels, ...), if there is one.
    """
    if isinstance(adapted(module), CONVOLUTION):
        return 1
    if a.ndim == 3:
        return 2 if image is not None and image.ndim == 4 else None  # patch tokens
    kind = _axis_by_kind(module, a)
    if kind is not None:
        return kind
    if image is None or image.ndim != a.ndim:
        return 1
    first, last = (distortion(places, image.shape[2:]) for places in (a.shape[2:], a.shape[1:-1]))
    if not math.isclose(first, last, rel_tol=1e-6):
        return 1 if first < last else a.ndim - 1
    return 1 if _holds(module, CONVOLUTION) and not _holds(module, CHANNELS_LAST) else None


def unknown_axis(name: str, a: Tensor) -> InvalidInputError:
    """The error that asks where the channels of a layer are.

    Args:
        name: of the layer.
        a: its activations.
    """
    length = "length" if a.ndim == 3 else ", ".join(["depth", "height", "width"][5 - a.ndim :])
    last_form = "(N, tokens, channels)" if a.ndim == 3 else f"(N, {length}, channels)"
    return InvalidInputError(
        f"layer {name!r} returns {tuple(a.shape)}: say where its channels are, with channel_axis=1 for (N, channels, "
        f"{length}) or channel_axis={a.ndim - 1} for {last_form}"
    )


def adapted(module: nn.Module) -> nn.Module:
    """The layer inside an adapter, such as LoRA's, whose output is this layer's and the adapter's; else the module.

    Args:
        module: any.
    """
    inner: nn.Module = getattr(module, ADAPTED, module)
    return inner


def distortion(places: Sequence[int], image: Sequence[int]) -> float:
    """The ratio of the scale factors from a map's axes to those of an image; 1 for the same proportions.

    Args:
        places: sizes of the map.
        image: of the image.
    """
    scales = [side / place for side, place in zip(image, places, strict=True)]
    return max(scales) / min(scales)


def _axis_by_kind(module: nn.Module, a: Tensor) -> int | None:
    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    if isinstance(module, CHANNELS_FIRST):
        return 1
    return a.ndim - 1 if isinstance(module, CHANNELS_LAST) else None


def _axis_by_width(model: nn.Module, point: LayerPoint, a: Tensor) -> int | None:
    """By the last layer at or before the point that has as many channels as an axis of its output."""
    modules = list(model.modules())
    begin = next(i for i, module in enumerate(modules) if module is point.module)
    end = begin if point.is_input else begin + len(list(point.module.modules()))
    nearest = next((axis for module in modules[:end][::-1] if (axis := _fitting(module, a))), None)
    if a.shape[1] == a.shape[-1] and {_fitting(module, a) for module in modules} >= {1, a.ndim - 1}:
        return None  # the number fits both axes, and layers of both kinds have it
    return nearest


def _fitting(module: nn.Module, a: Tensor) -> int | None:
    """Where a layer of this kind has its channels, if that axis of the tensor has as many."""
    for kind, (axis, name) in WIDTHS.items():
        if isinstance(module, kind):
            width: Any = getattr(module, name)
            width = width[-1] if isinstance(width, tuple) else width
            width *= 2 if getattr(module, "bidirectional", False) else 1
            return axis % a.ndim if a.shape[axis] == width else None
    return None


def _holds(module: nn.Module, kinds: Any) -> bool:
    return any(isinstance(m, kinds) for m in module.modules())

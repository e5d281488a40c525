"""Masks brought to the shape of what is explained: the inputs, or a layer's output.

A mask is resized (by area) only between maps of the same proportions, within one pixel. A layer's map counts as the
input's: a mask that fits the input is brought to the layer's positions, however many these are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError
from xaikit.core.masks import WHAT, align, allowed_shapes, leaves_of, read_masks
from xaikit.core.structure import Tensors, token_ids


def fit_masks(masks: Any, explained: Tensors, inputs: Tensors = (), *, what: str = WHAT) -> Tensors:
    """One mask for each explained tensor, of its shape (N, ...) and its precision.

    Args:
        masks: as `read_masks` takes or gives them; None marks everything.
        explained: the tensors that were explained: inputs, or a layer's outputs; at least one.
        inputs: the model's inputs, where a layer was explained.
        what: name of the masks in messages: the keyword that takes them.

    Raises:
        InvalidInputError: for masks of other proportions, another number of samples, or another number of masks than
            of explained tensors; the message names the shapes that fit.
    """
    if masks is None:
        return tuple(torch.ones_like(e) for e in explained)
    samples = inputs or explained
    leaves = leaves_of(masks)
    if not leaves or not all(isinstance(m, Tensor) for m in leaves):
        leaves = leaves_of(read_masks(masks, samples, what=what))
    if len(leaves) != len(explained):
        raise InvalidInputError(f"{what} must match the {len(explained)} explained tensors, got {len(leaves)}")
    origins = samples if len(samples) == len(explained) else explained
    return tuple(
        fit_mask(align(mask, _origin(e, x, inputs), what=what), e, _origin(e, x, inputs), what=what)
        for mask, e, x in zip(leaves, explained, origins, strict=True)
    )


def fit_mask(mask: Tensor, explained: Tensor, x: Tensor | None = None, *, what: str = WHAT) -> Tensor:
    """A mask (N, ...) brought to the shape of what is explained.

    Args:
        mask: with or without an axis for the channels; an axis of size 1 stands for all positions along it.
        explained: (N, F), (N, T, D), (N, C, ...).
        x: the input that the mask is over, where that is another than the explained tensor.
        what: name of the masks in messages.

    Raises:
        InvalidInputError: for any other shape; the message names those that fit.
    """
    x = explained if x is None else x
    mask = mask.to(explained)
    if len(mask) not in (1, len(explained)):
        raise _error(mask, explained, x, what)
    if _is_spread(mask, explained):
        return mask.expand_as(explained)
    if explained.ndim == 3 and mask.ndim == 2:
        mask = _on_steps(mask, explained, x, what)
    elif mask.ndim == explained.ndim - 1:
        mask = _without_channels(mask, explained, x, what)
    elif mask.ndim == x.ndim == explained.ndim > 2 and mask.shape[1] == x.shape[1] != explained.shape[1]:
        mask = mask.amax(1, keepdim=True)  # the layer has other channels: a position counts where any channel does
    if mask.ndim != explained.ndim or explained.ndim < 3 or mask.shape[1] not in (1, explained.shape[1]):
        raise _error(mask, explained, x, what)
    return _resized(mask, explained, x, what).expand_as(explained)


def same_proportions(size: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether two maps have the same proportions: one is the other scaled and rounded to whole pixels.

    A side may differ by less than a pixel from what the first side implies. The ratio may differ by less than a tenth,
    since one pixel changes it by that much on small maps. Maps of one axis must have the same length.

    Args:
        size: of a mask, without samples and channels.
        other: of what it is over.

    >>> same_proportions((24, 32), (12, 16)), same_proportions((15, 11), (64, 48)), same_proportions((5, 9), (12, 12))
    (True, True, False)
    """
    if len(size) != len(other) or len(size) < 2 or 0 in (*size, *other):
        return size == other
    height, other_height = size[0], other[0]
    for width, other_width in zip(size[1:], other[1:], strict=True):
        ratio = (width / height) / (other_width / other_height)
        pixels = min(abs(width - width / ratio), abs(height - height * ratio))
        if pixels >= 1 or abs(ratio - 1) >= 0.1:
            return False
    return True


def _origin(explained: Tensor, x: Tensor, inputs: Tensors) -> Tensor:
    """The input that a mask is over: the token ids, where their embedding is explained."""
    tokens = token_ids(explained, inputs)
    return x if tokens is None else tokens


def _is_spread(mask: Tensor, explained: Tensor) -> bool:
    """Whether each axis has the explained tensor's size, or 1 for all of its places.

    A table's (N, 1) is no mask for all columns: it would mark whole samples.
    """
    if mask.ndim != explained.ndim:
        return False
    sizes = list(zip(mask.shape[1:], explained.shape[1:], strict=True))
    return all(m == e for m, e in sizes) if explained.ndim <= 2 else all(m in (1, e) for m, e in sizes)


def _on_steps(mask: Tensor, explained: Tensor, x: Tensor, what: str) -> Tensor:
    """A mask (N, S) of (N, T, D) or (N, C, L), laid along the axis whose size is S."""
    length = mask.shape[1]
    if not x.is_floating_point() and x.ndim == 2:
        first, last = length == x.shape[1], False
    else:
        form = x if x.ndim == 3 else explained
        first, last = length == form.shape[1], length == form.shape[2]
    if first and last:
        raise InvalidInputError(
            f"{what} of length {length} could name either axis of {tuple(x.shape)}; pass (N, {length}, 1) for steps of "
            f"(N, T, D), or (N, 1, {length}) for positions of (N, C, L)"
        )
    if first and explained.shape[1] == length:
        return mask[..., None]
    if last:
        return mask[:, None]
    raise _error(mask, explained, x, what)


def _without_channels(mask: Tensor, explained: Tensor, x: Tensor, what: str) -> Tensor:
    """A map (N, ...) with an axis for the channels: the second, or the last where only that fits exactly.

    A map of one column or row is refused: with N = H, (H, W, 1) with its channel last would be N maps of one column.
    """
    positions = mask.shape[1:]
    if 1 in positions and set(positions) != {1} and positions not in (x.shape[2:], explained.shape[2:]):
        raise _scaling_error(tuple(positions), tuple((x if x.ndim == explained.ndim else explained).shape[2:]), what)
    fits_first = mask.shape[1:] == explained.shape[2:]
    if not fits_first and explained.ndim > 3 and mask.shape[1:] == explained.shape[1:-1] and x.shape == explained.shape:
        return mask[..., None]
    return mask[:, None]


def _resized(mask: Tensor, explained: Tensor, x: Tensor, what: str) -> Tensor:
    """The mask at the positions of the explained tensor."""
    places, size = tuple(explained.shape[2:]), tuple(mask.shape[2:])
    if all(m in (1, p) for m, p in zip(size, places, strict=True)):
        return mask
    over_input = x.ndim == explained.ndim
    # (N, T, D) and (N, C, L) look alike, so it is unknown whether a layer changed the features or the positions.
    if (explained.ndim == 3 and mask.shape[1] != 1) or explained.ndim > 5:
        raise _error(mask, explained, x, what)
    positions = tuple(x.shape[2:]) if over_input else places
    if not same_proportions(size, positions):
        raise _scaling_error(size, positions, what)
    return F.interpolate(mask, places, mode="area")


def _scaling_error(size: tuple[int, ...], positions: tuple[int, ...], what: str) -> InvalidInputError:
    return InvalidInputError(
        f"{what} can be resized only to the same proportions, and a map of {size} is no scaled one of {positions}; "
        f"pass {what} of shape {positions}"
    )


def _error(mask: Tensor, explained: Tensor, x: Tensor, what: str) -> InvalidInputError:
    at_layer = f" for a layer whose output is {tuple(explained.shape)}" if x.shape != explained.shape else ""
    return InvalidInputError(f"{what} must have shape {allowed_shapes(x)}; got {tuple(mask.shape)}{at_layer}")

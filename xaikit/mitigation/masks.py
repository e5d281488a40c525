"""Masks that say where an explanation must not look: 1 = penalise, 0 = free, in between = in part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import Tensors, flatten


def check_mask(mask: Any) -> Tensor:
    """The mask as a floating-point tensor with values in [0, 1].

    Raises:
        InvalidTypeError: for anything but a tensor or an array.
        InvalidInputError: for NaN or values outside [0, 1].
    """
    try:
        mask = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(f"a mask must be a tensor or an array, got {type(mask).__name__}") from None
    mask = mask if mask.is_floating_point() else mask.float()
    if bool(torch.isnan(mask).any()):
        raise InvalidInputError("a mask must hold values in [0, 1], got NaN")
    if mask.numel() and (float(mask.min()) < 0 or float(mask.max()) > 1):
        raise InvalidInputError(
            f"a mask must hold values in [0, 1], got {float(mask.min()):g} to {float(mask.max()):g}"
        )
    return mask


def per_sample(mask: Tensor, images: Tensor) -> bool:
    """Whether a mask for a whole set holds one map for each of its samples (else one for all)."""
    n = len(images)
    allowed = f"(N, ...) with N = {n}, or one map of shape {_map_shape(images)} for all"
    if mask.ndim == images.ndim or (mask.ndim == images.ndim - 1 and images.ndim > 2):
        if len(mask) == n:
            return True
        if mask.ndim == images.ndim and len(mask) == 1:
            return False
        raise InvalidInputError(f"masks must have shape {allowed}; got {tuple(mask.shape)}")
    if mask.ndim == max(1, images.ndim - 2):
        return False
    raise InvalidInputError(f"masks must have shape {allowed}; got {tuple(mask.shape)}")


def fit_mask(mask: Tensor, attribution: Tensor) -> Tensor:
    """The mask brought to the shape of an attribution: (N, C, ...) or (N, F).

    Takes (N, C, ...), (N, ...) without channels, or (...) for all samples; other spatial sizes are resized by area.

    Raises:
        InvalidInputError: for any other shape; the message names those that it takes.
    """
    mask = mask.to(attribution)
    n, dims, given = len(attribution), attribution.ndim, mask
    if dims <= 2:
        if mask.shape in (attribution.shape, attribution.shape[1:]):
            return mask.expand_as(attribution)
        raise _shape_error(given, attribution)
    if mask.ndim == dims - 2:
        mask = mask[None, None]
    elif mask.ndim == dims - 1:
        mask = mask[:, None]
    if mask.ndim != dims or len(mask) not in (1, n) or mask.shape[1] not in (1, attribution.shape[1]):
        raise _shape_error(given, attribution)
    if mask.shape[2:] != attribution.shape[2:]:
        if dims > 5:
            raise _shape_error(given, attribution)
        mask = F.interpolate(mask, attribution.shape[2:], mode="area")
    return mask.expand_as(attribution)


def fit_masks(mask: Any, attributions: Tensors) -> Tensors:
    """One mask for each attribution tensor: from a structure like theirs, or one tensor where there is one."""
    leaves = flatten(mask, "masks")[0]
    if len(leaves) != len(attributions):
        raise InvalidInputError(f"masks must match the {len(attributions)} explained tensors, got {len(leaves)}")
    return tuple(fit_mask(check_mask(m), a) for m, a in zip(leaves, attributions, strict=True))


def _map_shape(images: Tensor) -> tuple[int, ...]:
    return tuple(images.shape[2:]) if images.ndim > 2 else tuple(images.shape[1:])


def _shape_error(mask: Tensor, attribution: Tensor) -> InvalidInputError:
    n, rest = len(attribution), _map_shape(attribution)
    shapes = [(n, *attribution.shape[1:]), *([(n, *rest)] if attribution.ndim > 2 else []), rest]
    names = ", ".join(map(str, dict.fromkeys(shapes)))
    return InvalidInputError(
        f"a mask for {tuple(attribution.shape)} must have one of the shapes {names}, got {tuple(mask.shape)}"
    )

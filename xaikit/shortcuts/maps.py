"""Attributions in any form as one map for each sample, with channels pooled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xaikit.core import Attribution
from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError
from xaikit.core.image_forms import has_channels_last


def relevance_maps(attributions: Any, *, sign: str = "absolute") -> Tensor:
    """The relevance at each position, float64, never negative: (N, ...) without channels, (N, F) for tables.

    Args:
        attributions: (N, C, ...), (N, F) or an `Attribution` of one tensor; axis 1 of three or more holds channels, or
            the last of images whose form says so, (N, H, W, 3).
        sign: "absolute" adds |relevance| over channels; "positive" adds only positive relevance.

    Raises:
        InvalidInputError: for NaN, an empty batch, or no relevance at all.
        InvalidTypeError: for anything but a tensor or an attribution of one.
    """
    values = attributions.values if isinstance(attributions, Attribution) else attributions
    if isinstance(values, (tuple, list, dict)) and len(values) == 1:
        (values,) = values.values() if isinstance(values, dict) else values
    values = to_tensor(values, "attributions").detach().cpu()
    if values.ndim < 2 or len(values) == 0:
        raise InvalidInputError(f"attributions must have shape (N, ...) with N > 0, got {tuple(values.shape)}")
    values = values.double()
    if not bool(torch.isfinite(values).all()):
        raise InvalidInputError("attributions must be finite, got NaN or inf")
    if sign not in ("absolute", "positive"):
        raise InvalidInputError(f"sign must be 'absolute' or 'positive', got {sign!r}")
    size = values.abs() if sign == "absolute" else values.clamp_min(0)
    maps = size if size.ndim == 2 else size.sum(-1 if size.ndim == 4 and has_channels_last(size) else 1)
    if not bool(maps.any()):
        raise InvalidInputError(
            f"no sample has {'any' if sign == 'absolute' else 'positive'} relevance, so there is nothing to look at"
        )
    return maps


def distributions(maps: Tensor) -> Tensor:
    """Each map divided by its sum; a map without relevance (GradCam can give one) counts as uniform."""
    total = maps.flatten(1).sum(1).view(-1, *[1] * (maps.ndim - 1))
    return torch.where(total > 0, maps / total.clamp_min(torch.finfo(maps.dtype).tiny), 1 / maps[0].numel())

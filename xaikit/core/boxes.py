"""Boxes, as detectors and annotation tools give them, as masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError


def boxes_to_masks(boxes: Any, size: Sequence[int]) -> Tensor:
    """Masks (N, height, width) with 1 inside the boxes of each sample.

    A box covers the pixels from column floor(x0) to ceil(x1) - 1 and from row floor(y0) to ceil(y1) - 1, so that whole
    numbers count like Python's slices. What lies outside of the image is cut off.

    Args:
        boxes: (x0, y0, x1, y1) in pixels: an array (N, 4) with one box for each sample, (N, k, 4) with k of them, or a
            list with the boxes of each sample: four numbers, an array (k, 4), an empty list or None for no box.
        size: (height, width) of the images.

    Returns:
        Floating-point numbers, 1 inside and 0 outside.

    Raises:
        InvalidTypeError: for what is no number.
        InvalidInputError: for boxes of another shape, with x1 < x0 or y1 < y0, NaN, or a size that is none.

    >>> boxes_to_masks([[1, 0, 3, 1], None], (2, 4)).tolist()
    [[[0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]
    """
    height, width = _height_and_width(size)
    rows = list(boxes) if isinstance(boxes, (list, tuple)) else list(to_tensor(boxes, "boxes"))
    masks = torch.zeros(len(rows), height, width, device="cpu")
    for mask, row in zip(masks, rows, strict=True):
        for x0, y0, x1, y1 in _boxes_of_sample(row):
            left, top = max(0, math.floor(x0)), max(0, math.floor(y0))
            mask[top : max(top, math.ceil(y1)), left : max(left, math.ceil(x1))] = 1
    return masks


def _height_and_width(size: Sequence[int]) -> tuple[int, int]:
    try:
        height, width = (int(s) for s in size)
    except (TypeError, ValueError):
        raise InvalidInputError(f"size must be (height, width) of the images, got {size!r}") from None
    if height < 1 or width < 1:
        raise InvalidInputError(f"size must be (height, width) of the images, got {size!r}")
    return height, width


def _boxes_of_sample(row: Any) -> list[list[float]]:
    if row is None or (isinstance(row, (list, tuple)) and not row):
        return []
    tensor = to_tensor(row, "boxes").double()
    tensor = tensor[None] if tensor.ndim == 1 else tensor
    if tensor.ndim != 2 or (tensor.shape[1] != 4 and tensor.numel()):
        raise InvalidInputError(
            f"boxes must be four numbers (x0, y0, x1, y1) each, one row or several for each sample, "
            f"got shape {tuple(tensor.shape)}"
        )
    if not tensor.numel():
        return []
    if not bool(torch.isfinite(tensor).all()):
        raise InvalidInputError("boxes must be finite, got NaN or inf")
    if bool((tensor[:, 2:] < tensor[:, :2]).any()):
        wrong = tensor[(tensor[:, 2:] < tensor[:, :2]).any(1)][0].tolist()
        raise InvalidInputError(
            f"boxes must be (x0, y0, x1, y1) with x0 <= x1 and y0 <= y1, got {wrong}; of (x, y, width, height) pass "
            "(x, y, x + width, y + height)"
        )
    rows: list[list[float]] = tensor.tolist()
    return rows

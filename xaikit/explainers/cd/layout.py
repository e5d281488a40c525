"""How the parts of images are stored: with their channels last, since convolutions on a CPU are fastest then.

Parts (2, masks, N, C, *spatial) keep that shape; only their strides differ, so other code works with them unchanged.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

RUN = 1024
"""Entries of a row: a constant of each channel is repeated up to this length, as short rows are slow to broadcast."""


def for_convolution(rows: Tensor, weight: Tensor) -> Tensor:
    """Images (rows, C, H, W) as a convolution takes them fastest: channels behind, unless the weight is the larger one.

    A weight of several places has to be put into another order for that, at each call.
    """
    if rows.dtype != torch.float32 or rows.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return rows
    if weight.numel() > rows.numel() and weight[0, 0].numel() > 1:
        return rows.contiguous()
    if rows.shape[1] == 1 and rows.is_contiguous():  # both layouts at once; the strides tell which one is meant
        return rows.as_strided(rows.shape, (rows[0].numel(), 1, rows.shape[3], 1))
    return rows.contiguous(memory_format=torch.channels_last)


def channels_behind(parts: Tensor) -> bool:
    """Whether parts (2, masks, N, C, *spatial) are stored as (2, masks, N, *spatial, C)."""
    return parts.dim() > 4 and not parts.is_contiguous() and parts.movedim(3, -1).is_contiguous()


class ChannelRows:
    """Parts that are stored with their channels behind, seen as rows of k C entries, and what they meet."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape, self.channels = shape, shape[3]
        places = prod(shape[4:])
        self.repeats = next(k for k in range(max(1, RUN // self.channels), 0, -1) if places % k == 0)

    @classmethod
    def of(cls, parts: Tensor, share: Tensor, *operands: Tensor | None) -> ChannelRows | None:
        """The rows of parts, if they are stored so and each operand has one value for each channel or for all."""
        if not channels_behind(parts) or prod(share.shape[3:]) > 1:
            return None
        per_channel = [parts.shape[3], *[1] * (parts.dim() - 4)]
        fits = all(value is None or value.numel() == 1 or [*value.shape] == per_channel for value in operands)
        return cls(parts.shape) if fits else None

    def parts(self, parts: Tensor) -> Tensor:
        """(2, masks, N, C, *spatial) as (2, masks, N, spatial / k, k C)."""
        return parts.movedim(3, -1).reshape(*self.shape[:3], -1, self.repeats * self.channels)

    def back(self, rows: Tensor) -> Tensor:
        """The inverse of `parts`."""
        return rows.view(*self.shape[:3], *self.shape[4:], self.channels).movedim(-1, 3)

    def share(self, share: Tensor) -> Tensor:
        """The undecided share, for rows."""
        return share if share.dim() == 1 else share.reshape(*share.shape[:2], 1, 1)

    def operand(self, value: Any) -> Any:
        """A value for each channel as a row, (k C,); any other as it is."""
        channelled = value is not None and value.dim() == len(self.shape) - 3 and value.numel() > 1
        return value.flatten().expand(self.repeats, -1).flatten() if channelled else value  # `repeat` is slow

    def operand_back(self, row: Tensor, like: Tensor) -> Tensor:
        """The gradient with respect to a value, from that with respect to its row."""
        return row if like.numel() == 1 else row.view(self.repeats, self.channels).sum(0).view_as(like)

"""A masked region of some samples exchanged for that of others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.core.mask_shapes import fit_masks


def is_text(x: Tensor) -> bool:
    """Whether these are integer tokens (N, T), whose masked ones stand at any position.

    Args:
        x: inputs (N, ...).
    """
    return x.ndim == 2 and not x.is_floating_point()


def mask_like(mask: Any, x: Tensor) -> Tensor:
    """A mask in the shape of samples, also of tokens.

    Args:
        mask: in any form that `read_masks` takes.
        x: samples (N, ...).

    Raises:
        InvalidInputError: for a mask that does not fit.
    """
    form = x if x.is_floating_point() else x.float()
    return fit_masks(mask, (form,), (x,), what="shortcut_masks")[0]


def transplanted(donors: Tensor, donor_masks: Tensor, mask: Tensor) -> Tensor:
    """Samples with their masked region moved to where another mask lies.

    The smallest box around the donor's mask is laid over the box around the other mask, resized where the boxes differ.
    Donors stay as they are where both boxes are the same, or where one of the masks is empty.

    Args:
        donors: (N, C, ...), images, volumes or signals; others have no places that could move, and stay.
        donor_masks: of the donors, of their shape.
        mask: where the regions go, of the same shape.
    """
    if not 3 <= donors.ndim <= 5 or torch.equal(donor_masks, mask):
        return donors
    moved = donors.clone()
    for row in range(len(donors)):
        source, target = _box(donor_masks[row]), _box(mask[row])
        if source is None or target is None or source == target:
            continue
        region, place = donors[row][source], moved[row][target]
        if region.ndim == place.ndim and region.shape != place.shape:
            sizes = (region.shape[0], *place.shape[1:])
            if region.ndim == 2 and target[1] == slice(None):  # places along the first axis
                region = F.interpolate(region.T[None], place.shape[:1], mode="nearest")[0].T
            else:
                region = F.interpolate(region[None], sizes[1:], mode="nearest")[0]
        moved[row][target] = region
    return moved


def _box(mask: Tensor) -> tuple[slice, ...] | None:
    """The smallest box around what a sample's mask (C, ...) marks; None where it marks nothing, or has no places."""
    marks = mask != 0
    if not bool(marks.any()):
        return None
    if mask.ndim == 2:  # (C, L) or (T, D): the axis along which the mask differs is that of the places
        along = next((axis for axis in (0, 1) if bool((marks == marks.narrow(axis, 0, 1)).all())), None)
        if along is None:
            return None
        ends = marks.any(along).nonzero()[:, 0]
        place = slice(int(ends[0]), int(ends[-1]) + 1)
        return (slice(None), place) if along == 0 else (place, slice(None))
    places = marks.any(0).nonzero()
    box = (slice(int(a), int(b) + 1) for a, b in zip(places.amin(0), places.amax(0), strict=True))
    return (slice(None), *box)


def exchanged(x: Tensor, mask: Tensor, donors: Tensor, donor_masks: Tensor) -> Tensor:
    """Samples with their masked region taken from others.

    A region that lies elsewhere in the donor is moved to the sample's mask. Of tokens (N, T), the masked ones become
    those that the donor has in its own mask, in order, repeated where these are fewer; where the donor has none, they
    stay.

    Args:
        x: (N, ...).
        mask: of x, of its shape.
        donors: like x, the samples whose regions are taken.
        donor_masks: the masks of these.
    """
    if x.is_floating_point():
        donors = transplanted(donors, donor_masks, mask)
        return x + mask * (donors - x)
    if not is_text(x):
        return torch.where(mask > 0.5, donors, x)
    inside, offered = mask > 0.5, donor_masks > 0.5
    number = offered.sum(1, keepdim=True)
    tokens = donors.gather(1, offered.int().argsort(dim=1, descending=True, stable=True))  # the masked ones first
    turn = (inside.cumsum(1) - 1).clamp_min(0) % number.clamp_min(1)
    return torch.where(inside & (number > 0), tokens.gather(1, turn), x)

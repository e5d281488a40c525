"""A masked region of some samples exchanged for that of others."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

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
    begin = 1 if donors.ndim == 3 else 2  # of signals and series the mask says which axis holds the steps
    sizes = donors.shape[begin:]
    (source, has_source), (target, has_target) = _boxes(donor_masks), _boxes(mask)
    one = [len(donors), *[1] * len(sizes)]
    inside, place = (has_source & has_target).view(one), torch.zeros(one, dtype=torch.long, device=donors.device)
    for axis, size in enumerate(sizes):
        (first, length), (start, width) = (box[:, axis].unbind(1) for box in (source, target))
        offset = torch.arange(size, device=donors.device) - start[:, None]
        index = first[:, None] + (offset * length[:, None]).div(width[:, None], rounding_mode="floor")
        along = [len(donors), *(size if d == axis else 1 for d in range(len(sizes)))]
        place = place * size + index.clamp(0, size - 1).view(along)  # the nearest, where the boxes differ
        inside = inside & ((offset >= 0) & (offset < width[:, None])).view(along)
    flat = donors.reshape(len(donors), -1, place[0].numel())
    moved = flat.gather(2, place.flatten(1)[:, None].expand_as(flat)).view_as(donors)
    return torch.where(inside if begin == 1 else inside[:, None], moved, donors)


def _boxes(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest box around what each mask (N, C, ...) marks: begin and length, (N, axes, 2); and whether it is one.

    A mask (C, L) or (T, D) that differs along both axes has no places.
    """
    marks = mask != 0
    exists = marks.flatten(1).any(1)
    if mask.ndim == 3:
        exists = exists & torch.stack([(marks == marks.narrow(d, 0, 1)).flatten(1).all(1) for d in (1, 2)]).any(0)
    else:
        marks = marks.any(1)
    ends = []
    for axis in range(1, marks.ndim):
        along = marks.movedim(axis, 1).flatten(2).any(2).int()
        first = along.argmax(1)
        ends.append(torch.stack([first, (along.shape[1] - along.flip(1).argmax(1) - first).clamp_min(1)], 1))
    return torch.stack(ends, 1), exists


SAME_SHAPE = 0.5  # of two masks, moved onto each other: their intersection over their union


def _lent(x: Tensor, mask: Tensor, donors: Tensor, donor_masks: Tensor) -> Tensor:
    """What takes the place of each sample's region, in the samples' form."""
    if not 3 <= x.ndim <= 5 or torch.equal(donor_masks, mask):
        return donors
    moved, moved_masks = (transplanted(part, donor_masks, mask) for part in (donors, donor_masks))
    moved = _without_gaps(moved, moved_masks)
    inside, landed = ((m != 0).flatten(1) for m in (mask, moved_masks))
    together = (inside & landed).sum(1) >= SAME_SHAPE * (inside | landed).sum(1)
    lends = inside.any(1) & (donor_masks != 0).flatten(1).any(1)
    shifted = x + _mean_inside(donors, donor_masks) - _mean_inside(x, mask)
    return torch.where((together | ~lends).view(-1, *[1] * (x.ndim - 1)), moved, shifted)


def _without_gaps(x: Tensor, region: Tensor) -> Tensor:
    """Images with what is no part of their region replaced by the region's own pixels from the mirrored place.

    A ground that is cut around each object has a gap where the object stood; what stood there is no part of the region.
    Where the mirrored places are no part of it either, its mean is taken.
    """
    if x.ndim < 4:
        return x
    covered = (region != 0).expand_as(x)
    covered = covered | ~covered.flatten(1).any(1).view(-1, *[1] * (x.ndim - 1))  # without a region nothing is replaced
    filled = torch.where(covered, x, _mean_inside(x, region))
    for axes in ((-1, -2), (-2,), (-1,)):  # the last one counts most
        is_part = region.flip(axes) != 0
        filled = torch.where(~covered & is_part, x.flip(axes), filled)
    return filled


def _mean_inside(x: Tensor, mask: Tensor) -> Tensor:
    """The mean of each channel over the masked positions, (N, C, 1, ...)."""
    places = tuple(range(2, x.ndim))
    return (x * mask).sum(places, keepdim=True) / mask.sum(places, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)


def exchanged(x: Tensor, mask: Tensor, donors: Tensor, donor_masks: Tensor) -> Tensor:
    """Samples with their masked region taken from others.

    A region that lies elsewhere in the donor is moved to the sample's mask. One of another shape, such as a line of
    another direction, has no counterparts; it lends its mean instead: in each channel the difference between its mean
    and that of the sample's region is added. Where the donor's region has a gap, as a ground has where the object
    stands, its own pixels from the mirrored place fill it.

    Whether a sample has such a region is exchanged, too: where the donor alone has one, it is put where it lies in the
    donor; where the sample alone has one, there comes what the donor has at this place. Tokens: see `exchanged_tokens`.

    Args:
        x: (N, ...).
        mask: of x, of its shape; empty where a sample has no such region.
        donors: like x, the samples whose regions are taken.
        donor_masks: the masks of these.
    """
    if is_text(x):
        return exchanged_tokens(x, mask > 0.5, donors, donor_masks > 0.5, _between_runs(x), _between_runs(donors))
    has = (mask != 0).flatten(1).any(1).view(-1, *[1] * (x.ndim - 1))
    mask = torch.where(has, mask, donor_masks)
    if x.is_floating_point():
        return x + mask * (_lent(x, mask, donors, donor_masks) - x)
    return torch.where(mask > 0.5, donors, x)


def exchanged_tokens(  # noqa: PLR0913
    x: Tensor, inside: Tensor, donors: Tensor, offered: Tensor, ordinary: Tensor, donor_ordinary: Tensor
) -> Tensor:
    """Texts with some tokens taken from others.

    Where both texts have some, those of the sample become those of the donor, in order, repeated where these are fewer.
    Where the donor has none, they become what the donor has at the same part of its length. Where only the donor has
    some, they are put there in place of what stands there. So no text becomes longer.

    Args:
        x: ids (N, T).
        inside: the tokens that are meant, bool (N, T).
        donors: like x.
        offered: those of the donors that are meant, bool (N, T).
        ordinary: tokens of x that are no padding, bool (N, T).
        donor_ordinary: likewise of the donors.
    """
    has, number = inside.any(1, keepdim=True), offered.sum(1, keepdim=True)
    tokens = donors.gather(1, offered.int().argsort(dim=1, descending=True, stable=True))  # the offered ones first
    turn = (inside.cumsum(1) - 1).clamp_min(0) % number.clamp_min(1)
    changed = torch.where(inside & (number > 0), tokens.gather(1, turn), x)
    positions = _counterparts(ordinary, donor_ordinary)
    changed = torch.where(inside & (number == 0), donors.gather(1, positions), changed)
    # What is not put anywhere goes into a column that is cut off.
    places = torch.where(offered & ~has, _counterparts(donor_ordinary, ordinary), x.shape[1])
    return torch.cat([changed, changed[:, :1]], 1).scatter(1, places, donors)[:, :-1]


def _counterparts(ordinary: Tensor, other: Tensor) -> Tensor:
    """For each position of a text the position of the other one at the same part of its length, (N, T)."""
    order = (~other).int().argsort(dim=1, stable=True)  # the ordinary positions of the other text first
    last, other_last = (o.sum(1, keepdim=True) - 1 for o in (ordinary, other))
    rank = (ordinary.cumsum(1) - 1).clamp_min(0)
    target = (rank * other_last.clamp_min(0) / last.clamp_min(1)).round().long()
    return order.gather(1, target)


def _between_runs(tokens: Tensor) -> Tensor:
    """Which tokens are no padding, as far as a text itself tells: not in a run of one token at its end or beginning."""
    runs = []
    for text in (tokens, tokens.flip(1)):
        run = (text == text[:, :1]).int().cumprod(1).bool()
        runs.append(run & (run.sum(1, keepdim=True) > 1))
    padding = runs[0] | runs[1].flip(1)
    return ~padding | padding.all(1, keepdim=True)

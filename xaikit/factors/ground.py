"""Foreground and background of images, exchanged between them.

What is foreground is told by a simple rule: the distance of a pixel from the median colour of the image's edge, cut in
two by Otsu's threshold (IEEE Trans. Systems, Man, and Cybernetics 9, 1979), image by image. What lies below is cut
again if it parts clearly. It suits an object before a calm background; for anything else name a region by its mask.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from xaikit.core.registries import FACTORS
from xaikit.factors.base import NUISANCE, ExchangeContext, Factor
from xaikit.factors.facts import IMAGE
from xaikit.factors.picture_range import picture_range

BINS = 64  # of the histogram that Otsu's threshold is read off
CUTS = 3  # thresholds, each lower than the one before
CLEAR = 0.75  # share of the variance between two clear groups; of a normal distribution cut in two it is 0.64


@FACTORS.register("background")
class Background(Factor):
    """What lies around the object.

    The object stays where it is. Where the donor's own object stood, the donor's mean background is put.
    """

    KINDS: ClassVar[tuple[str, ...]] = (IMAGE,)
    nature = NUISANCE

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        object_, donor_object = _objects(x, context), _objects(donors, context)
        return torch.where(object_, x, _painted_over(donors, donor_object, context.facts.channel_axis))


@FACTORS.register("foreground")
class Foreground(Factor):
    """The object: the donor's is put before the sample's background."""

    KINDS: ClassVar[tuple[str, ...]] = (IMAGE,)

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        object_, donor_object = _objects(x, context), _objects(donors, context)
        return torch.where(donor_object, donors, _painted_over(x, object_, context.facts.channel_axis))


def _objects(x: Tensor, context: ExchangeContext) -> Tensor:
    """The foreground of the picture, where channels were standardised one by one: no channel counts more by that."""
    axis = context.facts.channel_axis
    images = x.movedim(axis, 1)
    return foreground(picture_range(context.facts, images).picture(images)).movedim(1, axis)


def _painted_over(x: Tensor, inside: Tensor, channel_axis: int) -> Tensor:
    """Images with their foreground in the mean colour of their background; without one, in that of their edge."""
    behind = ~inside
    places = tuple(d for d in (1, 2, 3) if d != channel_axis)
    count = behind.sum(places, keepdim=True)
    mean = (x * behind).sum(places, keepdim=True) / count.clamp_min(1)
    edge = _edge_colour(x.movedim(channel_axis, 1))[:, :, None, None].movedim(1, channel_axis)
    return torch.where(behind, x, torch.where(count > 0, mean, edge))


def foreground(x: Tensor, channel_axis: int = 1) -> Tensor:
    """Which pixels belong to the object, bool (N, 1, H, W), the size 1 at the channels' axis.

    Args:
        x: (N, C, H, W).
        channel_axis: which axis holds the channels.
    """
    images = x.movedim(channel_axis, 1)
    edge = _edge_colour(images)
    distance = (images - edge[:, :, None, None]).square().sum(1).sqrt()
    inside = torch.zeros_like(distance, dtype=torch.bool)
    for _ in range(CUTS):
        threshold, separation = otsu(distance.masked_fill(inside, 0).flatten(1))
        split = (distance > threshold.view(-1, 1, 1)) & ~inside
        # A second cut, for a faint object beside a bright spot, must part two clear groups.
        clear = (separation > CLEAR) | ~inside.flatten(1).any(1)
        inside = inside | (split & clear.view(-1, 1, 1))
    return inside.unsqueeze(channel_axis)


def _edge_colour(images: Tensor) -> Tensor:
    """The median colour of the edge of images (N, C, H, W): (N, C)."""
    edges = (images[:, :, 0], images[:, :, -1], images[:, :, :, 0], images[:, :, :, -1])
    return torch.cat(edges, 2).median(2).values


def otsu(values: Tensor) -> tuple[Tensor, Tensor]:
    """Otsu's threshold of each row, (N,), and which share of the variance lies between the groups that it parts, (N,).

    Args:
        values: (N, M).
    """
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    width = ((high - low) / BINS).clamp_min(torch.finfo(values.dtype).tiny)
    bins = ((values - low) / width).long().clamp(0, BINS - 1)
    counts = torch.zeros(len(values), BINS, dtype=torch.float64, device=values.device)
    counts.scatter_add_(1, bins, torch.ones_like(values, dtype=torch.float64))
    share = counts.cumsum(1) / values.shape[1]
    moment = (counts * torch.arange(BINS, device=values.device)).cumsum(1) / values.shape[1]
    between = (moment[:, -1:] * share - moment).square() / (share * (1 - share)).clamp_min(1e-12)
    most, best = between[:, :-1].max(1)
    places = torch.arange(BINS, device=values.device)
    variance = (counts * (places - moment[:, -1:]).square()).sum(1) / values.shape[1]
    return low[:, 0] + (best + 1) * width[:, 0], most / variance.clamp_min(1e-12)

"""Hue and saturation of colour images, exchanged between them.

Both are those of HSV: V is the largest channel of a pixel, its chroma C the largest minus the smallest, S = C / V, and
the hue says which channels are large. Hue and C do not change when all channels are scaled and shifted alike, so images
of any range will do; channels that were standardised one by one are first brought to a common range.
"""

from __future__ import annotations

import abc
import math
from typing import ClassVar

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.registries import FACTORS
from xaikit.factors.base import NUISANCE, ExchangeContext, Factor
from xaikit.factors.facts import IMAGE, DataFacts
from xaikit.factors.picture_range import picture_range


class Colour(Factor):
    """Something of the colours of images with three channels."""

    KINDS: ClassVar[tuple[str, ...]] = (IMAGE,)
    nature = NUISANCE

    def applies(self, x: Tensor, facts: DataFacts) -> bool:
        """Whether these are images of three channels.

        Args:
            x: samples (N, ...).
            facts: what is known of them.
        """
        return super().applies(x, facts) and x.shape[facts.channel_axis] == 3

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        axis = context.facts.channel_axis
        if x.shape[axis] != 3:
            raise InvalidInputError(
                f"the factor {self.title!r} is of images with three channels, got {tuple(x.shape)} with "
                f"{x.shape[axis]} of them at axis {axis}"
            )
        x, donors = x.movedim(axis, 1), donors.movedim(axis, 1)
        values = picture_range(context.facts, x)
        coloured = self._coloured(values.picture(x), values.picture(donors))
        return values.data(coloured).movedim(1, axis).to(x.dtype)

    @abc.abstractmethod
    def _coloured(self, x: Tensor, donors: Tensor) -> Tensor:
        """Images (N, 3, H, W) of one range in all channels, black at 0, with the donors' factor."""


@FACTORS.register("hue")
class Hue(Colour):
    """The hue of images: each pixel's is turned by the difference between the donor's mean hue and the image's own.

    The mean hue is the angle of the mean over the pixels of C * exp(2 pi i hue). V and C of each pixel stay, so
    brightness, saturation and shapes do, and grey pixels stay grey. An image without any colour changes nothing, and
    lends nothing.
    """

    def _coloured(self, x: Tensor, donors: Tensor) -> Tensor:
        (hue, chroma), (donor_hue, donor_chroma) = hue_and_chroma(x), hue_and_chroma(donors)
        turn = _mean_hue(donor_hue, donor_chroma) - _mean_hue(hue, chroma)
        lends = (donor_chroma.amax((1, 2)) > 0) & (chroma.amax((1, 2)) > 0)
        turn = torch.where(lends, turn, torch.zeros_like(turn))
        coloured = x.amin(1, keepdim=True) + chroma[:, None] * pure_colour(hue + turn[:, None, None])
        return torch.where(turn.view(-1, 1, 1, 1) == 0, x, coloured)


@FACTORS.register("saturation")
class Saturation(Colour):
    """How much colour images have: the deviation of each pixel's channels from V is scaled to the donor's mean S.

    An image without any colour stays as it is.
    """

    def _coloured(self, x: Tensor, donors: Tensor) -> Tensor:
        amount, donor_amount = _amount(x), _amount(donors)
        ratio = torch.where(
            amount > 0, donor_amount / amount.clamp_min(torch.finfo(x.dtype).tiny), torch.ones_like(amount)
        )
        value = x.amax(1, keepdim=True)
        return value - (value - x) * ratio.view(-1, 1, 1, 1)


def hue_and_chroma(x: Tensor) -> tuple[Tensor, Tensor]:
    """The hue in [0, 1) and the chroma of each pixel, (N, H, W) each; red has hue 0, green 1/3, blue 2/3.

    Args:
        x: (N, 3, H, W).
    """
    red, green, blue = x.unbind(1)
    largest, smallest = x.amax(1), x.amin(1)
    chroma = largest - smallest
    divisor = chroma.clamp_min(torch.finfo(x.dtype).tiny)
    sixth = torch.where(
        largest == red,
        (green - blue) / divisor,
        torch.where(largest == green, (blue - red) / divisor + 2, (red - green) / divisor + 4),
    )
    return (sixth / 6) % 1, chroma


def pure_colour(hue: Tensor) -> Tensor:
    """The colour of full chroma of each hue, (N, 3, H, W) in [0, 1].

    Args:
        hue: (N, H, W); whole turns make no difference.
    """
    six = (hue % 1) * 6
    return torch.stack([(six - 3).abs() - 1, 2 - (six - 2).abs(), 2 - (six - 4).abs()], 1).clamp(0, 1)


def _mean_hue(hue: Tensor, chroma: Tensor) -> Tensor:
    angle = 2 * math.pi * hue
    cosine, sine = ((chroma * f(angle)).sum((1, 2)) for f in (torch.cos, torch.sin))
    return torch.atan2(sine, cosine) / (2 * math.pi)


def _amount(x: Tensor) -> Tensor:
    """The mean saturation of the pixels that are not black, weighed by V: sum C / sum V, (N,)."""
    value = x.amax(1)
    return (value - x.amin(1)).sum((1, 2)) / value.abs().sum((1, 2)).clamp_min(torch.finfo(x.dtype).tiny)

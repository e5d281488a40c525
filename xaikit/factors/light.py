"""Brightness, contrast and sharpness of images, exchanged between them."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.core.registries import FACTORS
from xaikit.factors.base import NUISANCE, ExchangeContext, Factor
from xaikit.factors.facts import IMAGE
from xaikit.factors.picture_range import picture_range

LARGEST_RATIO = 10.0  # by which contrast or sharpness is raised at most: an empty image has none to raise


class Light(Factor):
    """A number of an image that is brought to the donor's; of the picture, where channels were standardised."""

    KINDS: ClassVar[tuple[str, ...]] = (IMAGE,)
    nature = NUISANCE

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        axis = context.facts.channel_axis
        x, donors = x.movedim(axis, 1), donors.movedim(axis, 1)
        values = picture_range(context.facts, x)
        changed = values.data(self._lit(values.picture(x), values.picture(donors))).to(x.dtype)
        return (changed if values.low is None else changed.clamp(values.low, values.high)).movedim(1, axis)

    @abc.abstractmethod
    def _lit(self, x: Tensor, donors: Tensor) -> Tensor:
        """Images (N, C, H, W) with the donors' number."""


def _mean(x: Tensor) -> Tensor:
    return x.mean((1, 2, 3), keepdim=True)


def _floor(x: Tensor) -> Tensor:
    values = x.flatten(1)
    return values.kthvalue(1 + values.shape[1] // 10, 1).values.view(-1, 1, 1, 1)


def _ratio(target: Tensor, value: Tensor) -> Tensor:
    """Target / value, at most `LARGEST_RATIO`; 1 where there is nothing to scale."""
    ratio = target / value.clamp_min(torch.finfo(value.dtype).tiny)
    return torch.where(value > 0, ratio.clamp(max=LARGEST_RATIO), torch.ones_like(ratio))


@FACTORS.register("brightness")
class Brightness(Light):
    """The mean of an image over its pixels and channels, and its floor: the darkest tenth of them lies below it.

    What is above the floor is scaled, and the floor added, within the data's range. So black stays black where the
    donor's is, and a picture that is lighter all over makes another one so. A constant added to an object before black
    would be a veil that no image of the data has.
    """

    BESIDE: ClassVar[tuple[str, ...]] = ("contrast",)

    def _lit(self, x: Tensor, donors: Tensor) -> Tensor:
        floor, target = _floor(x), _floor(donors)
        return target + (x - floor) * _ratio(_mean(donors) - target, _mean(x) - floor)


@FACTORS.register("contrast")
class ImageContrast(Light):
    """The standard deviation of an image about its mean: it is scaled, within the data's range."""

    BESIDE: ClassVar[tuple[str, ...]] = ("brightness",)

    def _lit(self, x: Tensor, donors: Tensor) -> Tensor:
        value, target = (t.std((1, 2, 3), correction=0, keepdim=True) for t in (x, donors))
        return _mean(x) + (x - _mean(x)) * _ratio(target, value)


@FACTORS.register("sharpness")
class Sharpness(Light):
    """How much of an image's contrast is fine detail: its difference from a blurred copy (3 x 3 means) is scaled."""

    BESIDE: ClassVar[tuple[str, ...]] = ("frequencies:band=high",)

    def _lit(self, x: Tensor, donors: Tensor) -> Tensor:
        smooth = _blurred(x)
        value, target = (_detail(t) for t in (x, donors))
        return smooth + (x - smooth) * _ratio(target, value)


def _blurred(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


def _detail(x: Tensor) -> Tensor:
    spread = x.std((1, 2, 3), correction=0, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return (x - _blurred(x)).square().mean((1, 2, 3), keepdim=True).sqrt() / spread

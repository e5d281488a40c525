"""Bands of frequencies of images and series, exchanged between them."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Tensor

from xaikit.core.params import Categorical, Float
from xaikit.core.registries import FACTORS
from xaikit.factors.base import NUISANCE, ExchangeContext, Factor
from xaikit.factors.facts import IMAGE, SERIES

LARGEST_RATIO = 4.0  # of two images' contrasts; a donor without any would lend what is mere rounding
STANDS_OUT = 5.0  # times the sample's amplitude, from which the donor's phase comes along


@FACTORS.register("frequencies")
class Frequencies(Factor):
    """How strong each frequency is: amplitudes become the donor's, phases stay.

    The phases say where things are, so shapes stay, and textures, stripes and hums go with the donor. A frequency above
    the cutoff that is five times as strong in the donor, as that of a stripe, comes with its phase. The mean of each
    channel, the frequency 0, stays too. Of an image, amplitudes count in proportion to those below the cutoff: how
    strong all of them are is its contrast, a factor of its own.
    """

    KINDS: ClassVar[tuple[str, ...]] = (IMAGE, SERIES)
    BESIDE: ClassVar[tuple[str, ...]] = ("sharpness",)

    nature = NUISANCE
    band: Annotated[str, Categorical("low", "high", "all", search=False), "below the cutoff, above it, or both"] = "all"
    cutoff: Annotated[float, Float(gt=0, lt=0.71), "in cycles per pixel or step; the finest are at 0.5"] = 0.125

    @property
    def title(self) -> str:
        """Such as "low frequencies"."""
        return "frequencies" if self.band == "all" else f"{self.band} frequencies"

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        axes = tuple(d for d in range(1, x.ndim) if d != context.facts.channel_axis)
        sizes = [x.shape[d] for d in axes]
        spectrum, target = (
            torch.fft.rfftn(t.to(torch.promote_types(t.dtype, torch.float32)), dim=axes) for t in (x, donors)
        )
        radius = self._radius(sizes, x.device).unsqueeze(context.facts.channel_axis - 1)
        low, high = (radius > 0) & (radius <= self.cutoff), radius > self.cutoff
        inside = {"low": low, "high": high, "all": low | high}[self.band]
        if context.facts.kind == IMAGE:
            target = target * _strength_ratio(spectrum, target, low)
        strength = target.abs()
        # A stripe that is no whole number of cycles long lies in several frequencies, and holds together by its phases.
        # Low frequencies hold the shapes, and are left where they are.
        stands_out = high & (strength > STANDS_OUT * spectrum.abs())
        mixed = torch.where(inside & ~stands_out, torch.polar(strength, spectrum.angle()), spectrum)
        mixed = torch.where(inside & stands_out, target, mixed)
        return torch.fft.irfftn(mixed, s=sizes, dim=axes).to(x.dtype)

    @staticmethod
    def _radius(sizes: list[int], device: torch.device) -> Tensor:
        """How fine each frequency of a real transform is, in cycles per pixel or step."""
        axes = [torch.fft.fftfreq(n, device=device) for n in sizes[:-1]]
        grid = torch.meshgrid(*axes, torch.fft.rfftfreq(sizes[-1], device=device), indexing="ij")
        return torch.stack([g.square() for g in grid]).sum(0).sqrt()


def _strength_ratio(spectrum: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """How much stronger the counted frequencies of one spectrum are than those of another, (N, 1, ...)."""
    energy, other = (
        (t.abs().square() * counted).sum(tuple(range(1, t.ndim)), keepdim=True) for t in (spectrum, target)
    )
    ratio = (energy / other.clamp_min(torch.finfo(other.dtype).tiny)).sqrt()
    return torch.where((energy > 0) & (other > 0), ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO), 1.0)

"""Bands of frequencies of images and series, exchanged between them."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

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

    The outlines of an object are high frequencies, too. `where="spread"` exchanges what is as strong all over the
    sample, such as stripes, a grain or a hum, and leaves what is strong in few places.
    """

    KINDS: ClassVar[tuple[str, ...]] = (IMAGE, SERIES)
    BESIDE: ClassVar[tuple[str, ...]] = ("sharpness",)

    nature = NUISANCE
    band: Annotated[str, Categorical("low", "high", "all", search=False), "below the cutoff, above it, or both"] = "all"
    cutoff: Annotated[float, Float(gt=0, lt=0.71), "in cycles per pixel or step; the finest are at 0.5"] = 0.125
    where: Annotated[
        str, Categorical("all", "spread", search=False), "all of them, or what is spread over the whole sample"
    ] = "all"

    @property
    def title(self) -> str:
        """Such as "low frequencies"."""
        name = "frequencies" if self.band == "all" else f"{self.band} frequencies"
        return name if self.where == "all" else f"spread {name}"

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        channel_axis, dtype = context.facts.channel_axis, x.dtype
        axes = tuple(d for d in range(1, x.ndim) if d != channel_axis)
        sizes = [x.shape[d] for d in axes]
        x, donors = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (x, donors))
        spectrum, target = (torch.fft.rfftn(t, dim=axes) for t in (x, donors))
        radius = self._radius(sizes, x.device).unsqueeze(channel_axis - 1)
        low, high = (radius > 0) & (radius <= self.cutoff), radius > self.cutoff
        inside = {"low": low, "high": high, "all": low | high}[self.band]
        ratio = _strength_ratio(spectrum, target, low) if context.facts.kind == IMAGE else 1.0
        if self.where == "all":
            # A stripe that is no whole number of cycles long lies in several frequencies, and holds together by its
            # phases. Low frequencies hold the shapes, and are left where they are.
            return torch.fft.irfftn(_mixed(spectrum, target * ratio, inside, high), s=sizes, dim=axes).to(dtype)
        spread, donated = (
            _spread(torch.fft.irfftn(t * inside, s=sizes, dim=axes), channel_axis, round(1 / self.cutoff))
            for t in (spectrum, target)
        )
        spectrum, target = (torch.fft.rfftn(t, dim=axes) for t in (spread, donated))
        everywhere = torch.ones_like(inside)
        exchanged = torch.fft.irfftn(_mixed(spectrum, target * ratio, everywhere, everywhere), s=sizes, dim=axes)
        return (x - spread + exchanged).to(dtype)

    @staticmethod
    def _radius(sizes: list[int], device: torch.device) -> Tensor:
        """How fine each frequency of a real transform is, in cycles per pixel or step."""
        axes = [torch.fft.fftfreq(n, device=device) for n in sizes[:-1]]
        grid = torch.meshgrid(*axes, torch.fft.rfftfreq(sizes[-1], device=device), indexing="ij")
        return torch.stack([g.square() for g in grid]).sum(0).sqrt()


def _mixed(spectrum: Tensor, target: Tensor, inside: Tensor, may_stand_out: Tensor) -> Tensor:
    """A spectrum with the amplitudes of another, and with its phases where these stand out."""
    strength = target.abs()
    stands_out = may_stand_out & (strength > STANDS_OUT * spectrum.abs())
    mixed = torch.where(inside & ~stands_out, torch.polar(strength, spectrum.angle()), spectrum)
    return torch.where(inside & stands_out, target, mixed)


def _spread(values: Tensor, channel_axis: int, width: int) -> Tensor:
    """Images (N, C, H, W) or series, brought down to their median strength where they are locally stronger.

    The outlines of an object are strong in few places, a stripe or a grain is as strong everywhere.
    """
    energy = values.square().mean(channel_axis, keepdim=True).movedim(channel_axis, 1)
    half = max(1, width // 2)
    padded = F.pad(energy, (half, half) * (energy.ndim - 2), mode="replicate")
    pool = F.avg_pool2d if energy.ndim == 4 else F.avg_pool1d
    local = pool(padded, 2 * half + 1, 1)
    middle = local.flatten(1).median(1).values.view(-1, *[1] * (energy.ndim - 1))
    ratio = middle / local.clamp_min(torch.finfo(local.dtype).tiny)
    return values * ratio.clamp(max=1).sqrt().movedim(1, channel_axis)


def _strength_ratio(spectrum: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """How much stronger the counted frequencies of one spectrum are than those of another, (N, 1, ...)."""
    energy, other = (
        (t.abs().square() * counted).sum(tuple(range(1, t.ndim)), keepdim=True) for t in (spectrum, target)
    )
    ratio = (energy / other.clamp_min(torch.finfo(other.dtype).tiny)).sqrt()
    return torch.where((energy > 0) & (other > 0), ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO), 1.0)

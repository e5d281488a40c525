"""The range of images: channels that were standardised one by one are brought back to that of the picture."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from xaikit.factors.facts import DataFacts

USUAL = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


class PictureRange(NamedTuple):
    """Where black and white lie: numbers, or a tensor (1, C, 1, 1) each.

    Attributes:
        black: the value of black.
        scale: what one unit of the picture is.
        low: the smallest value of the data, as a tensor; None where it is unknown.
        high: the largest one, likewise.
    """

    black: float | Tensor = 0.0
    scale: float | Tensor = 1.0
    low: Tensor | None = None
    high: Tensor | None = None

    def picture(self, x: Tensor) -> Tensor:
        """Images of one range in all channels, black at 0.

        Args:
            x: (N, C, H, W).
        """
        return (x - self.black) / self.scale

    def data(self, picture: Tensor) -> Tensor:
        """The way back from `picture`.

        Args:
            picture: (N, C, H, W).
        """
        return picture * self.scale + self.black


def picture_range(facts: DataFacts, x: Tensor) -> PictureRange:
    """Which values of the data are black and white.

    Images in [0, 1], [-1, 1] or [0, 255] have one range in all channels, also where a channel is empty. Others were
    standardised channel by channel; their smallest and largest values then stand for black and white.

    Args:
        facts: of the data.
        x: images (N, C, H, W), whose precision and device the result has.
    """
    if facts.low is None or facts.high is None:
        return PictureRange()
    smallest, largest = float(facts.low.min()), float(facts.high.max())
    black = next((a for a, b in USUAL if smallest >= a - 1e-6 and largest <= b + 1e-6), None)
    if black is not None:
        return PictureRange(black, 1.0, facts.low.min().to(x), facts.high.max().to(x))
    low, high = (t.double().to(x).view(1, -1, 1, 1) for t in (facts.low, facts.high))
    return PictureRange(low, (high - low).where(high > low, 1.0), low, high)

"""Factors: what can be exchanged between samples, to see whether a model follows it, or to train it not to."""

from xaikit.factors.base import ExchangeContext, Factor
from xaikit.factors.colour import Hue, Saturation
from xaikit.factors.facts import DataFacts
from xaikit.factors.regions import Border, Cell, Cells, Corner, Corners, MaskedRegion
from xaikit.factors.words import Words

__all__ = [
    "Border",
    "Cell",
    "Cells",
    "ExchangeContext",
    "Corner",
    "Corners",
    "DataFacts",
    "Factor",
    "Hue",
    "MaskedRegion",
    "Saturation",
    "Words",
]

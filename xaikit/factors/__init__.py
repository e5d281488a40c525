"""Factors: what can be exchanged between samples, to see whether a model follows it, or to train it not to."""

from xaikit.factors.base import ExchangeContext, Factor, Family
from xaikit.factors.colour import Hue, Saturation
from xaikit.factors.columns import Column, EachColumn
from xaikit.factors.defaults import default_factors
from xaikit.factors.facts import DataFacts
from xaikit.factors.ground import Background, Foreground
from xaikit.factors.length import Length
from xaikit.factors.light import Brightness, ImageContrast, Sharpness
from xaikit.factors.regions import Border, Cell, Cells, Corner, Corners, MaskedRegion
from xaikit.factors.series import Channel, Channels, Window, Windows
from xaikit.factors.spectrum import Frequencies
from xaikit.factors.together import Together, is_factor, read_factor
from xaikit.factors.word_kinds import TellingWords, WordKind
from xaikit.factors.words import EndTokens, Words

__all__ = [
    "Background", "Border", "Brightness", "Cell", "Cells", "Channel", "Channels", "Column", "Corner", "Corners",
    "DataFacts", "EachColumn", "EndTokens", "ExchangeContext", "Factor", "Family", "Foreground", "Frequencies",
    "Hue", "ImageContrast", "Length", "MaskedRegion", "Saturation", "Sharpness", "TellingWords", "Together", "Window",
    "Windows", "WordKind", "Words", "default_factors", "is_factor", "read_factor",
]  # fmt: skip

"""The factors that a scan measures where none are named."""

from __future__ import annotations

from torch import Tensor

from xaikit.core.registries import FACTORS
from xaikit.factors.base import Factor
from xaikit.factors.facts import IMAGE, SERIES, TABLE, TEXT, DataFacts

# What is spread all over a sample should not matter; outlines and spikes may.
SPREAD, HIGH = "frequencies:band=high,where=spread", "frequencies:band=high,nature=content"
DEFAULTS = {
    IMAGE: (
        "corners", "border", "cells", "background", "foreground", "hue", "saturation", "brightness", "contrast",
        "frequencies:band=low", SPREAD, HIGH, "sharpness",
    ),
    TEXT: (
        "word_kind:kind=stop_words", "word_kind:kind=articles", "word_kind:kind=pronouns",
        "word_kind:kind=punctuation", "word_kind:kind=digits", "word_kind:kind=capitals", "tokens:where=first",
        "tokens:where=last", "length", "telling_words",
    ),
    SERIES: ("windows", "channels", "frequencies:band=low,nature=content", SPREAD, HIGH),
    TABLE: ("columns",),
}  # fmt: skip


def default_factors(x: Tensor, facts: DataFacts) -> tuple[Factor, ...]:
    """Our own factors for such data, and those of plugins.

    Args:
        x: samples.
        facts: what is known of them.
    """
    defaults = tuple(FACTORS.create(spec) for spec in DEFAULTS[facts.kind])
    plugins = [FACTORS.get(name) for name in FACTORS if not FACTORS.get(name).__module__.startswith("xaikit.")]
    further = tuple(cls() for cls in plugins if facts.kind in cls.KINDS and not cls.needed_settings())
    return tuple(factor for factor in (*defaults, *further) if factor.applies(x, facts))

"""Figures that write every text as it is."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.text import Text


class PlainFigure(Figure):
    """A figure in which no dollar sign begins a formula: names of columns, classes and words are the user's."""

    def draw(self, renderer: Any) -> None:
        """Draw all, as it is written.

        Args:
            renderer: of matplotlib.
        """
        for text in self.findobj(Text):
            text.set_parse_math(False)
        super().draw(renderer)

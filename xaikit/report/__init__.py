"""Figures, and the report as one HTML page."""

from xaikit.report.cards import Names
from xaikit.report.html import Picture, Report, Table

__all__ = ["Names", "Picture", "Report", "Table"]

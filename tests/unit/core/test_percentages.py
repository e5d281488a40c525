"""Percentages are written in one form, as "88.9 %"."""

from __future__ import annotations

import re
from pathlib import Path

import xaikit
from xaikit.core.percentages import percent


def test_form():
    assert [percent(0.1234), percent(1.0), percent(0.125, 2), percent(0.51, 0)] == [
        "12.3 %",
        "100.0 %",
        "12.50 %",
        "51 %",
    ]


def test_no_file_formats_a_percentage_by_itself():
    """Python's own format ``.1%`` has no space before the sign."""
    sources = sorted(Path(xaikit.__file__).parent.rglob("*.py"))
    assert len(sources) > 100
    assert [path.name for path in sources if re.search(r":\.?\d*%\}", path.read_text(encoding="utf-8"))] == []

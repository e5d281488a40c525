"""The example that mends a classifier of reviews by words."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly


def test_the_mended_model_reads_the_review(monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    monkeypatch.delitem(sys.modules, "examples", raising=False)
    results = importlib.import_module("examples.words.words").main()
    assert results["plain"][1] < 0.2
    assert results["mended"][1] > 0.75

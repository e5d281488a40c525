"""The examples that mend a classifier of reviews, and a causal model, by words."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly


@pytest.mark.parametrize(("script", "reached"), [("words", 0.75), ("causal", 0.8)])
def test_the_mended_model_reads_the_review(monkeypatch, script, reached):
    pytest.importorskip("transformers")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    for module in [name for name in sys.modules if name.partition(".")[0] == "examples"]:
        monkeypatch.delitem(sys.modules, module)
    results = importlib.import_module(f"examples.words.{script}").main()
    assert results["plain"][1] < 0.2
    assert min(exchanged for _, exchanged in list(results.values())[1:]) > reached

"""Results of a peer that need not be installed: computed where it is, else read from a file in tests/data/golden.

A stored result belongs to inputs, of which the file holds fingerprints; a test whose inputs changed fails and asks for
a new recording: install the peer, and run the tests with ``XAIKIT_RECORD=1``.
"""

from __future__ import annotations

import importlib.util
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "data" / "golden"


class StoredResults:
    """The results of one test, in the order of its calls."""

    def __init__(self, package: str, file: str, test: str) -> None:
        self.test = test
        self.stored = GOLDEN / file
        self.calls = 0
        self.is_installed = importlib.util.find_spec(package) is not None

    def result(self, name: str, arrays: list[np.ndarray], compute: Callable[[], Any]) -> Any:
        """What `compute` gives, as JSON holds it; `arrays` are what it depends on."""
        key = f"{self.test}, call {self.calls}: {name}"
        self.calls += 1
        inputs = [float(np.abs(array, dtype=np.float64).sum()) for array in arrays]
        if not self.is_installed:
            entry = json.loads(self.stored.read_text())[key]
            assert inputs == pytest.approx(entry["inputs"], rel=1e-5), "the inputs changed: record again, see above"
            return entry["result"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = json.loads(json.dumps(compute(), default=lambda value: value.tolist()))
        if "XAIKIT_RECORD" in os.environ:
            entries = json.loads(self.stored.read_text()) if self.stored.exists() else {}
            entries[key] = {"inputs": inputs, "result": result}
            self.stored.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
        return result

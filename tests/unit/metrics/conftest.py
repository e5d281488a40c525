"""Quantus as a peer: computed where it is installed, else read from tests/data/golden/quantus.json.

``XAIKIT_RECORD=1 pytest tests/unit/metrics`` writes that file again; it needs ``pip install quantus``. A stored result
belongs to inputs, of which the file holds fingerprints; a test whose inputs changed fails and asks for a new recording.
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

from xaikit.core.torchvision_ops import import_torchvision

STORED = Path(__file__).parents[2] / "data" / "golden" / "quantus.json"


class Quantus:
    """The results of one test, in the order of its calls."""

    def __init__(self, test: str) -> None:
        self.test = test
        self.calls = 0
        self.is_installed = importlib.util.find_spec("quantus") is not None

    def metric(self, name: str, model, x, y, a, call=None, functions=None, **options) -> Any:
        """What a metric of Quantus gives, attributions as they are; `functions` are settings named by its functions."""

        def compute() -> Any:
            quantus = self._module()
            settings = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
            settings |= options | {key: getattr(quantus, value) for key, value in (functions or {}).items()}
            metric = getattr(quantus, name)(return_aggregate=False, **settings)
            arrays = {"x_batch": x.numpy(), "y_batch": y.numpy(), "a_batch": a.numpy()}
            return metric(model=model.eval(), **arrays, **{"softmax": False, "device": "cpu", **(call or {})})

        return self._result(name, [x.numpy(), y.numpy(), a.detach().numpy()], compute)

    def function(self, name: str, **arguments) -> Any:
        """What a function of Quantus gives."""
        arrays = [value for value in arguments.values() if isinstance(value, np.ndarray)]
        return self._result(name, arrays, lambda: getattr(self._module(), name)(**arguments).tolist())

    @staticmethod
    def _module() -> Any:
        import_torchvision()
        return importlib.import_module("quantus")

    def _result(self, name: str, arrays: list[np.ndarray], compute: Callable[[], Any]) -> Any:
        key = f"{self.test}, call {self.calls}: {name}"
        self.calls += 1
        inputs = [float(np.abs(array, dtype=np.float64).sum()) for array in arrays]
        if not self.is_installed:
            entry = json.loads(STORED.read_text())[key]
            assert inputs == pytest.approx(entry["inputs"], rel=1e-5), "the inputs changed: record again, see above"
            return entry["result"]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = json.loads(json.dumps(compute(), default=float))
        if "XAIKIT_RECORD" in os.environ:
            entries = json.loads(STORED.read_text()) if STORED.exists() else {}
            entries[key] = {"inputs": inputs, "result": result}
            STORED.write_text(json.dumps(dict(sorted(entries.items())), indent=1) + "\n")
        return result


@pytest.fixture
def quantus(request: pytest.FixtureRequest) -> Quantus:
    """Quantus, or what it gave."""
    return Quantus(f"{request.node.path.name}::{request.node.name}")

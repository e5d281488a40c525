"""Quantus as a peer: computed where it is installed, else read from tests/data/golden/quantus.json.

``XAIKIT_RECORD=1 pytest tests/unit/metrics`` writes that file again; it needs ``pip install quantus``.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

from tests.stored_results import StoredResults
from xaikit.core.torchvision_ops import import_torchvision


class Quantus(StoredResults):
    """The results of one test, in the order of its calls."""

    def __init__(self, test: str) -> None:
        super().__init__("quantus", "quantus.json", test)

    def metric(self, name: str, model, x, y, a, call=None, functions=None, **options) -> Any:
        """What a metric of Quantus gives, attributions as they are; `functions` are settings named by its functions."""

        def compute() -> Any:
            quantus = self._module()
            settings = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
            if options.pop("discretise_by_all", False):  # all signs, not those of the first five values
                options["discretise_func"] = lambda values: hash(bytes(np.sign(values)))
            settings |= options | {key: getattr(quantus, value) for key, value in (functions or {}).items()}
            metric = getattr(quantus, name)(return_aggregate=False, **settings)
            arrays = {"x_batch": x.numpy(), "y_batch": y.numpy(), "a_batch": a.numpy()}
            return metric(model=model.eval(), **arrays, **{"softmax": False, "device": "cpu", **(call or {})})

        return self.result(name, [x.numpy(), y.numpy(), a.detach().numpy()], compute)

    def function(self, name: str, **arguments) -> Any:
        """What a function of Quantus gives."""
        arrays = [value for value in arguments.values() if isinstance(value, np.ndarray)]
        return self.result(name, arrays, lambda: getattr(self._module(), name)(**arguments).tolist())

    @staticmethod
    def _module() -> Any:
        import_torchvision()
        np.trapz = np.trapezoid  # numpy 2 has another name for what Quantus calls
        return importlib.import_module("quantus")


@pytest.fixture
def quantus(request: pytest.FixtureRequest) -> Quantus:
    """Quantus, or what it gave."""
    return Quantus(f"{request.node.path.name}::{request.node.name}")

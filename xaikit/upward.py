"""The one door upwards: modules of higher rooms that a lower room may load when it runs, never when it is imported.

`xaikit/__init__.py` fills `MODULES`. A lower room knows the names alone, so imports make no circle: the registries load
what is registered in them at the first look-up, and results load the figures that draw them.
"""

from __future__ import annotations

import importlib
from typing import Any

MODULES: dict[str, str] = {}


def load(name: str) -> Any:
    """The module that `xaikit/__init__.py` placed behind this name.

    Args:
        name: a key of `MODULES`, such as "explainers" or "figures".
    """
    return importlib.import_module(MODULES[name])

"""An old name: the content is in `model_state` and in `layers` now, and the error of an import from here says where."""

from __future__ import annotations

from typing import Any

from xaikit.core import layers, model_state


def __getattr__(name: str) -> Any:
    if name.startswith("__"):  # Python and its tools ask for names of their own
        raise AttributeError(name)
    homes = [home.__name__ for home in (model_state, layers) if hasattr(home, name)]
    where = f"import {name} from {homes[0]}" if homes else f"neither has {name!r} any more"
    raise ImportError(f"xaikit.core.isolation is in two parts now, model_state and layers: {where}")

"""The explainer and the targets of a run as the command line takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from xaikit.core import EXPLAINERS
from xaikit.core.errors import XaikitError
from xaikit.core.spec_strings import target_text


def explainer_text(explainer: Mapping[str, Any]) -> str:
    """The spec string of a run's explainer: its name, and the settings that differ from the defaults.

    Args:
        explainer: "name" and "settings", as a run's manifest has them.

    >>> explainer_text({"name": "vargrad", "settings": {"n_iter": 7}})
    'vargrad:n_iter=7'
    """
    name, settings = str(explainer["name"]), explainer.get("settings", {})
    try:
        usual = EXPLAINERS.create(name).serialised_settings()
    except XaikitError:
        usual = {}
    parts = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in settings.items()
        if value != usual.get(key) and isinstance(value, (bool, int, float, str, list))
    ]
    return f"{name}:{','.join(parts)}" if parts else name


def target_field(targets: Any) -> str:
    """What --target takes for the targets of a run.

    Args:
        targets: of a run's job.
    """
    return "" if targets == "predicted" else targets if targets == "label" else target_text(targets)

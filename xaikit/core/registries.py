"""The registries. What stands in them is imported at the first look-up, not before."""

from __future__ import annotations

from typing import Any

from xaikit.core.configured import Configured
from xaikit.core.registry import Registry


def _baseline(value: Any) -> Configured | None:
    from xaikit.transforms.baselines import from_value

    return from_value(value)


EXPLAINERS: Registry = Registry("explainer", "xaikit.explainers")
METRICS: Registry = Registry("metric", "xaikit.metrics")
MITIGATORS: Registry = Registry("mitigator", "xaikit.mitigation")
BASELINES: Registry = Registry("baseline", "xaikit.transforms", coerce=_baseline)
FEATURE_MASKS: Registry = Registry("feature mask", "xaikit.transforms")

"""The core: settings, registries, the attribution call, and what keeps the model as it was found."""

from xaikit.core.attribution import Attribution
from xaikit.core.call import Call
from xaikit.core.configured import Configured
from xaikit.core.explainer import Explainer, as_explainer
from xaikit.core.params import Categorical, Choice, Float, Int, Layer, Spec
from xaikit.core.registries import (
    BASELINES,
    EXPLAINERS,
    FEATURE_MASKS,
    METRICS,
    MITIGATORS,
    MODALITIES,
    NORMALIZATIONS,
    POOLINGS,
    POSTPROCESSORS,
    PROJECTIONS,
)
from xaikit.core.registry import Registry

__all__ = [
    "BASELINES",
    "EXPLAINERS",
    "FEATURE_MASKS",
    "METRICS",
    "MITIGATORS",
    "MODALITIES",
    "NORMALIZATIONS",
    "POOLINGS",
    "POSTPROCESSORS",
    "PROJECTIONS",
    "Attribution",
    "Call",
    "Categorical",
    "Choice",
    "Configured",
    "Explainer",
    "Float",
    "Int",
    "Layer",
    "Registry",
    "Spec",
    "as_explainer",
]

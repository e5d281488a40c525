"""The core: settings, registries, the attribution call, and the isolation that leaves a model unchanged."""

from typing import TYPE_CHECKING, Any

from xaikit.core.as_explainer import as_explainer
from xaikit.core.attribution import Attribution
from xaikit.core.batch import Batch, read_batch, read_batches
from xaikit.core.boxes import boxes_to_masks
from xaikit.core.call import Call
from xaikit.core.configured import Configured
from xaikit.core.errors import XaikitError
from xaikit.core.explainer import Explainer
from xaikit.core.inputs import read_inputs
from xaikit.core.labels import read_classes, read_labels
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.masks import read_masks
from xaikit.core.params import Categorical, Choice, Float, Int, Layer, Spec
from xaikit.core.registries import (
    BASELINES,
    EXPLAINERS,
    FACTORS,
    FEATURE_MASKS,
    METRICS,
    MITIGATORS,
    MODALITIES,
    NORMALIZATIONS,
    POOLINGS,
    POSTPROCESSORS,
    PROJECTIONS,
    TARGETS,
)
from xaikit.core.registry import Registry
from xaikit.core.renames import renamed_attribute
from xaikit.core.results import Interval, Result, Stopped

__all__ = [
    "BASELINES",
    "EXPLAINERS",
    "FACTORS",
    "FEATURE_MASKS",
    "METRICS",
    "MITIGATORS",
    "MODALITIES",
    "NORMALIZATIONS",
    "POOLINGS",
    "POSTPROCESSORS",
    "PROJECTIONS",
    "TARGETS",
    "Attribution",
    "Batch",
    "Call",
    "Categorical",
    "Choice",
    "Configured",
    "Explainer",
    "Float",
    "Int",
    "Interval",
    "Layer",
    "Registry",
    "Result",
    "Spec",
    "Stopped",
    "XaikitError",
    "as_explainer",
    "boxes_to_masks",
    "fit_masks",
    "read_batch",
    "read_batches",
    "read_classes",
    "read_inputs",
    "read_labels",
    "read_masks",
]

if not TYPE_CHECKING:  # a type checker would take any name to be there

    def __getattr__(name: str) -> Any:
        raise renamed_attribute(__name__, name, {"isolation": "model_state, and what is about layers, layers"}, __all__)

"""The registries. What stands in them is imported at the first look-up, not before."""

from __future__ import annotations

from xaikit.core.registry import Registry

EXPLAINERS: Registry = Registry("explainer", "xaikit.explainers")
METRICS: Registry = Registry("metric", "xaikit.metrics")
MITIGATORS: Registry = Registry("mitigator", "xaikit.mitigation")
BASELINES: Registry = Registry("baseline", "xaikit.transforms")
FEATURE_MASKS: Registry = Registry("feature mask", "xaikit.transforms")
POOLINGS: Registry = Registry("pooling", "xaikit.transforms")
NORMALIZATIONS: Registry = Registry("normalization", "xaikit.transforms")
POSTPROCESSORS: Registry = Registry("postprocessor", "xaikit.transforms")
MODALITIES: Registry = Registry("modality", "xaikit.modality")
PROJECTIONS: Registry = Registry("projection", "xaikit.mitigation")

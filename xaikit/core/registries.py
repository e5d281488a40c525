"""The registries. What stands in them is imported at the first look-up, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xaikit.core.registry import Registry

if TYPE_CHECKING:
    from xaikit.core.explainer import Explainer
    from xaikit.core.target_values import Target
    from xaikit.metrics.base import Metric
    from xaikit.mitigation.base import Mitigator
    from xaikit.mitigation.projections import Projection
    from xaikit.modality.base import Modality
    from xaikit.transforms.baselines import Baseline
    from xaikit.transforms.feature_masks import FeatureMask
    from xaikit.transforms.normalization import Normalization
    from xaikit.transforms.pooling import Pooling
    from xaikit.transforms.postprocess import Postprocessor

EXPLAINERS: Registry[Explainer] = Registry("explainer", "xaikit.explainers")
METRICS: Registry[Metric] = Registry("metric", "xaikit.metrics")
MITIGATORS: Registry[Mitigator] = Registry("mitigator", "xaikit.mitigation")
TARGETS: Registry[Target] = Registry("target", "xaikit.core.target_values")
BASELINES: Registry[Baseline] = Registry("baseline", "xaikit.transforms")
FEATURE_MASKS: Registry[FeatureMask] = Registry("feature mask", "xaikit.transforms")
POOLINGS: Registry[Pooling] = Registry("pooling", "xaikit.transforms")
NORMALIZATIONS: Registry[Normalization] = Registry("normalization", "xaikit.transforms")
POSTPROCESSORS: Registry[Postprocessor] = Registry("postprocessor", "xaikit.transforms")
MODALITIES: Registry[Modality] = Registry("modality", "xaikit.modality")
PROJECTIONS: Registry[Projection] = Registry("projection", "xaikit.mitigation")

"""The registries. Their items are imported when a registry is first asked for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xaikit.core.registry import Registry

if TYPE_CHECKING:
    from xaikit.core.explainer import Explainer
    from xaikit.core.target_values import Target
    from xaikit.factors.base import Factor
    from xaikit.metrics.base import Metric
    from xaikit.mitigation.base import Mitigator
    from xaikit.mitigation.projections import Projection
    from xaikit.modality.base import Modality
    from xaikit.transforms.baselines import Baseline
    from xaikit.transforms.feature_masks import FeatureMask
    from xaikit.transforms.normalization import Normalization
    from xaikit.transforms.pooling import Pooling
    from xaikit.transforms.postprocess import Postprocessor

EXPLAINERS: Registry[Explainer] = Registry("explainer", "explainers")
METRICS: Registry[Metric] = Registry("metric", "metrics")
MITIGATORS: Registry[Mitigator] = Registry("mitigator", "mitigation")
TARGETS: Registry[Target] = Registry("target", "targets")
BASELINES: Registry[Baseline] = Registry("baseline", "transforms")
FEATURE_MASKS: Registry[FeatureMask] = Registry("feature mask", "transforms")
POOLINGS: Registry[Pooling] = Registry("pooling", "transforms")
NORMALIZATIONS: Registry[Normalization] = Registry("normalization", "transforms")
POSTPROCESSORS: Registry[Postprocessor] = Registry("postprocessor", "transforms")
MODALITIES: Registry[Modality] = Registry("modality", "modality")
FACTORS: Registry[Factor] = Registry("factor", "factors")
PROJECTIONS: Registry[Projection] = Registry("projection", "mitigation")

"""xaikit: find out why a PyTorch model decides as it does, and train it to be right for the right reasons.

Every name below is imported when it is first used; `import xaikit` alone loads neither torch nor anything heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "xaikit.core": (
        "BASELINES", "EXPLAINERS", "FEATURE_MASKS", "METRICS", "MITIGATORS", "MODALITIES", "NORMALIZATIONS", "POOLINGS",
        "Attribution", "Categorical", "Choice", "Explainer", "Float", "Int", "as_explainer",
        "boxes_to_masks",
    ),
    "xaikit.transforms": ("Postprocessor",),
    "xaikit.modality": ("Image", "Modality", "Tabular", "Text", "TimeSeries", "as_modality"),
    "xaikit.explainers": (
        "LRP", "AgglomerativeDecomposition", "AttnLRP", "CaptumExplainer", "ContextualDecomposition",
        "ExpectedGradients", "GradCam", "GradCamPlusPlus", "Gradient", "GradientXInput", "IntegratedGradients",
        "LRPEpsilonAlpha2Beta1", "LRPEpsilonGammaBox", "LRPEpsilonPlus", "LRPUniformEpsilon", "SmoothGrad", "VarGrad",
    ),
    "xaikit.metrics": (
        "AUC", "ROAD", "AbPC", "AvgSensitivity", "CompletenessGap", "Deletion", "EffectiveComplexity", "Entropy",
        "Evaluation", "FaithfulnessCorrelation", "Infidelity", "InputInvariance", "Insertion", "LeRF",
        "LocalLipschitz", "MaxSensitivity", "Metric", "ModelRandomisation", "MoRF", "MuFidelity", "NonSensitivity",
        "PeakMemory", "PointingGame", "RandomLogit", "RelevanceMass", "RelevanceRank", "Seconds", "Sparseness",
        "TopKIntersection", "evaluate",
    ),
    "xaikit.mitigation": (
        "CDEP", "HINT", "RRR", "AClArC", "Assessment", "AttributionPrior", "ChannelSubspace", "ChannelSum", "Chroma",
        "Comparison", "Concept", "Counterexamples", "Direction", "History", "Mitigator", "PClArC", "Projection",
        "RRClArC", "assess", "compare",
    ),
    "xaikit.recommendation": ("Recommendation", "recommend"),
    "xaikit.report": (
        "Names",
        "Picture",
        "Report",
        "Table",
        "evaluation_sections",
        "mitigation_sections",
        "profile_sections",
        "tuning_sections",
    ),
    "xaikit.runs": ("Run", "explain_dataset", "load_run"),
    "xaikit.shortcuts": ("Clusters", "Overlap", "SpRAy", "load_masks", "make_masks", "mask_overlap"),
    "xaikit.tuning": ("Goal", "TuneResult", "tune", "tune_mitigator"),
}  # fmt: skip
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604

if TYPE_CHECKING:
    from xaikit.core import *  # noqa: F403
    from xaikit.explainers import *  # noqa: F403
    from xaikit.metrics import *  # noqa: F403
    from xaikit.mitigation import *  # noqa: F403
    from xaikit.modality import *  # noqa: F403
    from xaikit.recommendation import *  # noqa: F403
    from xaikit.report import *  # noqa: F403
    from xaikit.runs import *  # noqa: F403
    from xaikit.shortcuts import *  # noqa: F403
    from xaikit.transforms import *  # noqa: F403
    from xaikit.tuning import *  # noqa: F403


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'xaikit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

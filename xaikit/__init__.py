"""xaikit: find out why a PyTorch model decides as it does, and train it to be right for the right reasons.

Here stand the names that users type most; the others are in the subpackages, such as `xaikit.metrics.PointingGame`.
Every name is imported when it is first used; `import xaikit` alone loads neither torch nor anything heavy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xaikit.upward import MODULES as _MODULES

__version__ = "0.1.0"

_HOMES = {
    "xaikit.core": (
        "EXPLAINERS", "METRICS", "MITIGATORS", "Attribution", "boxes_to_masks", "Explainer",
        "Float", "Int", "XaikitError",
    ),
    "xaikit.core.target_values": (
        "Class", "Contrast", "Heads", "LogProbability", "Position", "Probability", "Region",
    ),
    "xaikit.explainers": (
        "LRP", "AttnLRP", "CaptumExplainer", "ContextualDecomposition", "ExpectedGradients", "GradCam",
        "GradCamPlusPlus", "Gradient", "GradientXInput", "IntegratedGradients", "LRPEpsilonAlpha2Beta1",
        "LRPEpsilonGammaBox", "LRPEpsilonPlus", "LRPUniformEpsilon", "SmoothGrad", "VarGrad",
    ),
    "xaikit.metrics": (
        "AbPC", "Entropy", "evaluate", "LeRF", "MaxSensitivity", "Metric",
        "MoRF", "MuFidelity",
    ),
    "xaikit.mitigation": (
        "CDEP", "HINT", "RRR", "assess", "compare", "Concept", "Counterexamples", "Mitigator",
    ),
    "xaikit.recommendation": (
        "recommend",
    ),
    "xaikit.report": (
        "Report",
    ),
    "xaikit.runs": (
        "explain_dataset", "load_run",
    ),
    "xaikit.shortcuts": (
        "load_masks", "make_masks", "mask_overlap", "SpRAy",
    ),
    "xaikit.tuning": (
        "tune", "tune_mitigator",
    ),
}  # fmt: skip
# Names that stood here once, and where they are now.
_MOVED = {
    "xaikit.core": (
        "as_explainer",
        "BASELINES", "FEATURE_MASKS", "MODALITIES", "NORMALIZATIONS", "POOLINGS", "Categorical", "Choice",
    ),
    "xaikit.transforms": (
        "Postprocessor",
    ),
    "xaikit.modality": (
        "as_modality", "Image", "Modality", "Tabular", "Text", "TimeSeries",
    ),
    "xaikit.explainers": (
        "AgglomerativeDecomposition",
    ),
    "xaikit.metrics": (
        "EffectiveComplexity",
        "AvgSensitivity",
        "AUC", "ROAD", "CompletenessGap", "Deletion", "Evaluation", "FaithfulnessCorrelation", "Infidelity",
        "InputInvariance", "Insertion", "LocalLipschitz", "ModelRandomisation", "NonSensitivity", "PeakMemory",
        "PointingGame", "RandomLogit", "RelevanceMass", "RelevanceRank", "Seconds", "Sparseness", "TopKIntersection",
    ),
    "xaikit.mitigation": (
        "AClArC", "Assessment", "AttributionPrior", "ChannelSubspace", "ChannelSum", "Chroma", "Comparison",
        "Direction", "History", "PClArC", "Projection", "RRClArC",
    ),
    "xaikit.recommendation": (
        "Recommendation",
    ),
    "xaikit.report": (
        "evaluation_sections", "mitigation_sections", "Names", "Picture", "profile_sections", "Table",
        "tuning_sections",
    ),
    "xaikit.runs": (
        "Run",
    ),
    "xaikit.shortcuts": (
        "Clusters", "Overlap",
    ),
    "xaikit.tuning": (
        "Goal", "TuneResult",
    ),
}  # fmt: skip
_ROOMS = (
    "cli", "core", "explainers", "factors", "influence", "language", "metrics", "mitigation", "modality",
    "recommendation", "report", "runs", "shortcuts", "testing", "torch_ops", "transforms", "tuning",
)  # fmt: skip
# What lower rooms may load of higher ones, see `xaikit.upward`.
_MODULES |= {
    "explainers": "xaikit.explainers",
    "factors": "xaikit.factors",
    "metrics": "xaikit.metrics",
    "mitigation": "xaikit.mitigation",
    "modality": "xaikit.modality",
    "transforms": "xaikit.transforms",
    "targets": "xaikit.core.target_values",
    "concept_figures": "xaikit.report.concept_figures",
    "figures": "xaikit.report.figures",
    "generation_figures": "xaikit.report.generation_figures",
    "generation_page": "xaikit.report.generation_page",
    "hierarchies": "xaikit.report.hierarchies",
    "interaction_figures": "xaikit.report.interaction_figures",
    "layer_figures": "xaikit.report.layer_figures",
    "pictures": "xaikit.report.pictures",
    "scans": "xaikit.report.scans",
    "summary_figures": "xaikit.report.summary_figures",
    "tuning_figures": "xaikit.report.tuning_figures",
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
_NEW_HOME_OF = {name: module for module, names in _MOVED.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604

if TYPE_CHECKING:  # the same names, for type checkers; a test compares
    from xaikit import cli as cli
    from xaikit import core as core
    from xaikit import explainers as explainers
    from xaikit import factors as factors
    from xaikit import influence as influence
    from xaikit import language as language
    from xaikit import metrics as metrics
    from xaikit import mitigation as mitigation
    from xaikit import modality as modality
    from xaikit import recommendation as recommendation
    from xaikit import report as report
    from xaikit import runs as runs
    from xaikit import shortcuts as shortcuts
    from xaikit import testing as testing
    from xaikit import torch_ops as torch_ops
    from xaikit import transforms as transforms
    from xaikit import tuning as tuning
    from xaikit.core import EXPLAINERS as EXPLAINERS
    from xaikit.core import METRICS as METRICS
    from xaikit.core import MITIGATORS as MITIGATORS
    from xaikit.core import Attribution as Attribution
    from xaikit.core import Explainer as Explainer
    from xaikit.core import Float as Float
    from xaikit.core import Int as Int
    from xaikit.core import XaikitError as XaikitError
    from xaikit.core import boxes_to_masks as boxes_to_masks
    from xaikit.core.target_values import Class as Class
    from xaikit.core.target_values import Contrast as Contrast
    from xaikit.core.target_values import Heads as Heads
    from xaikit.core.target_values import LogProbability as LogProbability
    from xaikit.core.target_values import Position as Position
    from xaikit.core.target_values import Probability as Probability
    from xaikit.core.target_values import Region as Region
    from xaikit.explainers import LRP as LRP
    from xaikit.explainers import AttnLRP as AttnLRP
    from xaikit.explainers import CaptumExplainer as CaptumExplainer
    from xaikit.explainers import ContextualDecomposition as ContextualDecomposition
    from xaikit.explainers import ExpectedGradients as ExpectedGradients
    from xaikit.explainers import GradCam as GradCam
    from xaikit.explainers import GradCamPlusPlus as GradCamPlusPlus
    from xaikit.explainers import Gradient as Gradient
    from xaikit.explainers import GradientXInput as GradientXInput
    from xaikit.explainers import IntegratedGradients as IntegratedGradients
    from xaikit.explainers import LRPEpsilonAlpha2Beta1 as LRPEpsilonAlpha2Beta1
    from xaikit.explainers import LRPEpsilonGammaBox as LRPEpsilonGammaBox
    from xaikit.explainers import LRPEpsilonPlus as LRPEpsilonPlus
    from xaikit.explainers import LRPUniformEpsilon as LRPUniformEpsilon
    from xaikit.explainers import SmoothGrad as SmoothGrad
    from xaikit.explainers import VarGrad as VarGrad
    from xaikit.metrics import AbPC as AbPC
    from xaikit.metrics import Entropy as Entropy
    from xaikit.metrics import LeRF as LeRF
    from xaikit.metrics import MaxSensitivity as MaxSensitivity
    from xaikit.metrics import Metric as Metric
    from xaikit.metrics import MoRF as MoRF
    from xaikit.metrics import MuFidelity as MuFidelity
    from xaikit.metrics.evaluate import evaluate as evaluate
    from xaikit.mitigation import CDEP as CDEP
    from xaikit.mitigation import HINT as HINT
    from xaikit.mitigation import RRR as RRR
    from xaikit.mitigation import Concept as Concept
    from xaikit.mitigation import Counterexamples as Counterexamples
    from xaikit.mitigation import Mitigator as Mitigator
    from xaikit.mitigation.assess import assess as assess
    from xaikit.mitigation.compare import compare as compare
    from xaikit.recommendation.recommend import recommend as recommend
    from xaikit.report import Report as Report
    from xaikit.runs import explain_dataset as explain_dataset
    from xaikit.runs import load_run as load_run
    from xaikit.shortcuts import SpRAy as SpRAy
    from xaikit.shortcuts import load_masks as load_masks
    from xaikit.shortcuts import make_masks as make_masks
    from xaikit.shortcuts import mask_overlap as mask_overlap
    from xaikit.tuning import tune_mitigator as tune_mitigator
    from xaikit.tuning.tune import tune as tune


def _asked_by_import() -> bool:
    """Whether the caller of `_load` is at a ``from xaikit import name``."""
    import dis
    import inspect

    frame = inspect.currentframe()
    while frame is not None and frame.f_globals is globals():
        frame = frame.f_back
    return frame is not None and frame.f_code.co_code[frame.f_lasti] == dis.opmap["IMPORT_FROM"]


def _subpackage_with(name: str) -> str | None:
    """The subpackage that has a public name."""
    for room in ("mitigation", "shortcuts", *_ROOMS):  # what most look for first: each is imported
        if name in getattr(importlib.import_module(f"xaikit.{room}"), "__all__", ()):
            return f"xaikit.{room}"
    return None


def _load(name: str) -> Any:
    """The room or the public name, imported now."""
    if name in _ROOMS:
        return importlib.import_module(f"xaikit.{name}")
    if name in _NEW_HOME_OF:
        home = _NEW_HOME_OF[name]
        # An import statement replaces an AttributeError by a sentence of its own, which does not say where the name is.
        kind = ImportError if _asked_by_import() else AttributeError
        raise kind(f"xaikit.{name} is in {home} now: from {home} import {name}")
    if name not in _HOME_OF:
        if _asked_by_import() and (room := _subpackage_with(name)):
            raise ImportError(f"{name} is in {room}: from {room} import {name}")
        if _asked_by_import():
            from xaikit.core.errors import close_names

            raise ImportError(f"cannot import name {name!r} from 'xaikit'{close_names(name, _HOME_OF)}")
        raise AttributeError(f"module 'xaikit' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


if not TYPE_CHECKING:  # or type checkers would believe that every name is there
    __getattr__ = _load


def __dir__() -> list[str]:
    return sorted(__all__)

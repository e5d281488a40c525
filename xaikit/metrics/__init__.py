"""The metrics, one file per family. A new one is one class, one decorator, one line here."""

from typing import TYPE_CHECKING, Any

from xaikit.core.renames import renamed_attribute
from xaikit.metrics.axioms import CompletenessGap, InputInvariance, NonSensitivity
from xaikit.metrics.base import EvaluationContext, Metric
from xaikit.metrics.complexity import EffectiveComplexity, Entropy, Sparseness
from xaikit.metrics.continuity import Continuity
from xaikit.metrics.cost import PeakMemory, Seconds
from xaikit.metrics.evaluate import evaluate
from xaikit.metrics.experiment import Experiment
from xaikit.metrics.faithfulness import AbPC, Curves, Deletion, Insertion, LeRF, MoRF
from xaikit.metrics.fidelity import FaithfulnessCorrelation, Infidelity, MuFidelity
from xaikit.metrics.fine_tuned_fidelity import FFidelity, FFidelityMinus, FFidelityPlus
from xaikit.metrics.localisation import (
    AUC,
    AttributionLocalisation,
    Focus,
    PointingGame,
    RelevanceMass,
    RelevanceRank,
    TopKIntersection,
)
from xaikit.metrics.masked_tuning import tune_with_masks
from xaikit.metrics.mprt_variants import EfficientMPRT, SmoothMPRT
from xaikit.metrics.neighbours import Consistency, Sufficiency
from xaikit.metrics.randomisation import ModelRandomisation, RandomLogit
from xaikit.metrics.region_removal import IROF, RegionPerturbation, Selectivity
from xaikit.metrics.relative_stability import (
    RelativeInputStability,
    RelativeOutputStability,
    RelativeRepresentationStability,
)
from xaikit.metrics.road import ROAD
from xaikit.metrics.robustness import AvgSensitivity, LocalLipschitz, MaxSensitivity
from xaikit.metrics.sensitivity_n import SensitivityN
from xaikit.metrics.steps import FaithfulnessEstimate, MonotonicityArya, MonotonicityNguyen
from xaikit.metrics.table import Evaluation, EvaluationRow

__all__ = [
    "AttributionLocalisation",
    "Consistency",
    "Continuity",
    "EfficientMPRT",
    "FaithfulnessEstimate",
    "FFidelity",
    "FFidelityMinus",
    "FFidelityPlus",
    "Focus",
    "IROF",
    "MonotonicityArya",
    "MonotonicityNguyen",
    "RegionPerturbation",
    "RelativeInputStability",
    "RelativeOutputStability",
    "RelativeRepresentationStability",
    "Selectivity",
    "SensitivityN",
    "SmoothMPRT",
    "Sufficiency",
    "AUC",
    "ROAD",
    "AbPC",
    "AvgSensitivity",
    "EvaluationContext",
    "CompletenessGap",
    "Curves",
    "Deletion",
    "EffectiveComplexity",
    "Entropy",
    "Evaluation",
    "Experiment",
    "EvaluationRow",
    "FaithfulnessCorrelation",
    "Infidelity",
    "InputInvariance",
    "Insertion",
    "LeRF",
    "LocalLipschitz",
    "MaxSensitivity",
    "Metric",
    "ModelRandomisation",
    "MoRF",
    "MuFidelity",
    "NonSensitivity",
    "PeakMemory",
    "PointingGame",
    "RandomLogit",
    "RelevanceMass",
    "RelevanceRank",
    "Seconds",
    "Sparseness",
    "TopKIntersection",
    "evaluate",
    "tune_with_masks",
]

if not TYPE_CHECKING:  # a type checker would take any name to be there

    def __getattr__(name: str) -> Any:
        raise renamed_attribute(__name__, name, {"Row": "EvaluationRow", "Case": "EvaluationContext"}, __all__)

"""The metrics, one file per family. A new one is one class, one decorator, one line here."""

from xaikit.metrics.base import Case, Metric
from xaikit.metrics.complexity import EffectiveComplexity, Entropy, Sparseness
from xaikit.metrics.faithfulness import AbPC, Curves, Deletion, Insertion, LeRF, MoRF
from xaikit.metrics.fidelity import FaithfulnessCorrelation, Infidelity, MuFidelity
from xaikit.metrics.road import ROAD
from xaikit.metrics.robustness import AvgSensitivity, LocalLipschitz, MaxSensitivity

__all__ = ["AbPC", "Case", "Curves", "LeRF", "Metric", "MoRF"]

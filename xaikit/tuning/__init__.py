"""Searching an explainer's settings for the best value of a metric; the engine is Optuna."""

from xaikit.tuning.result import TuneResult
from xaikit.tuning.tune import tune

__all__ = ["TuneResult", "tune"]

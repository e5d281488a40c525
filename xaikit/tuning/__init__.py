"""Searches for good settings of explainers and mitigators, with Optuna."""

from xaikit.tuning.goals import Goal
from xaikit.tuning.mitigator import tune_mitigator
from xaikit.tuning.result import FrontPoint, TuneResult
from xaikit.tuning.tune import tune

__all__ = ["FrontPoint", "Goal", "TuneResult", "tune", "tune_mitigator"]

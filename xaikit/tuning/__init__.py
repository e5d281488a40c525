"""Searching the settings of explainers and mitigators by what they give; the engine is Optuna."""

from xaikit.tuning.goals import Goal
from xaikit.tuning.mitigator import tune_mitigator
from xaikit.tuning.result import Candidate, TuneResult
from xaikit.tuning.tune import tune

__all__ = ["Candidate", "Goal", "TuneResult", "tune", "tune_mitigator"]

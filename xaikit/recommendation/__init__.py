"""Which explainers suit a model, and why."""

from xaikit.recommendation.candidates import Candidate
from xaikit.recommendation.profile import ModelProfile, profile_model
from xaikit.recommendation.recommend import Recommendation, recommend

__all__ = ["Candidate", "ModelProfile", "Recommendation", "profile_model", "recommend"]

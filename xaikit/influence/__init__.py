"""Which training samples a prediction comes from: TracIn, similar gradients, influence functions."""

from xaikit.influence.influence_function import influence_function
from xaikit.influence.result import Influences
from xaikit.influence.similarity import gradient_similarity
from xaikit.influence.tracin import tracin

__all__ = ["Influences", "gradient_similarity", "influence_function", "tracin"]

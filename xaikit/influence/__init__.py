"""Which training samples a prediction comes from: TracIn, SGD-influence, similar gradients, influence functions."""

from xaikit.influence.influence_function import influence_function
from xaikit.influence.result import Influences
from xaikit.influence.sgd_influence import sgd_influence
from xaikit.influence.similarity import gradient_similarity
from xaikit.influence.tracin import tracin

__all__ = ["Influences", "gradient_similarity", "influence_function", "sgd_influence", "tracin"]

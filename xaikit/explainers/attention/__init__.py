"""Relevance by attention weights, the baselines of the field: of classifiers here, of generated text in `language`."""

from xaikit.explainers.attention.classifiers import attention_relevance
from xaikit.explainers.attention.rules import METHODS, crossed, joined_layers, read_layers

__all__ = ["METHODS", "attention_relevance", "crossed", "joined_layers", "read_layers"]

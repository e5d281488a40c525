"""Text that a model generates, explained token by token."""

from xaikit.language.attention import explain_attention
from xaikit.language.coalitions import LeavingOut
from xaikit.language.explain import explain_generation
from xaikit.language.generation import Generation
from xaikit.language.layer_relevance import LayerRelevance, layer_relevance
from xaikit.language.logit_lens import LogitLens, logit_lens
from xaikit.language.replacements import Replacing, explain_replacements
from xaikit.language.scores import AnswerScore
from xaikit.language.segments import explain_segments
from xaikit.language.template import Template

__all__ = [
    "AnswerScore",
    "Generation",
    "LayerRelevance",
    "LeavingOut",
    "LogitLens",
    "Replacing",
    "Template",
    "explain_attention",
    "explain_generation",
    "explain_replacements",
    "explain_segments",
    "layer_relevance",
    "logit_lens",
]

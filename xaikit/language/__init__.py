"""Text that a model generates, explained token by token."""

from xaikit.language.explain import explain_generation
from xaikit.language.generation import Generation
from xaikit.language.scores import AnswerScore
from xaikit.language.template import Template

__all__ = ["AnswerScore", "Generation", "Template", "explain_generation"]

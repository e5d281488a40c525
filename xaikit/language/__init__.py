"""Text that a model generates, explained token by token."""

from xaikit.language.explain import explain_generation
from xaikit.language.generation import Generation
from xaikit.language.scores import AnswerScore

__all__ = ["AnswerScore", "Generation", "explain_generation"]

"""Shapley values of groups of features: exact, by a weighted fit, by permutations, and over a hierarchy."""

from __future__ import annotations

from xaikit.explainers.shapley.explainers import ExactShapley, KernelShapley, PermutationShapley, ShapleyEstimate
from xaikit.explainers.shapley.owen import OwenShapley

__all__ = ["ExactShapley", "KernelShapley", "OwenShapley", "PermutationShapley", "ShapleyEstimate"]

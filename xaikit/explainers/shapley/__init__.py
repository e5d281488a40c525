"""Shapley values of groups of features: exact, by a weighted fit, and by permutations."""

from __future__ import annotations

from xaikit.explainers.shapley.explainers import ExactShapley, KernelShapley, PermutationShapley, ShapleyEstimate

__all__ = ["ExactShapley", "KernelShapley", "PermutationShapley", "ShapleyEstimate"]

"""Interactions of pairs of groups of features: integrated Hessians and Shapley interaction indices."""

from __future__ import annotations

from xaikit.explainers.interactions.hessians import integrated_hessians
from xaikit.explainers.interactions.result import Interactions
from xaikit.explainers.interactions.shapley_pairs import shapley_interactions

__all__ = ["Interactions", "integrated_hessians", "shapley_interactions"]

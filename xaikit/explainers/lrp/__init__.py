"""Layer-wise relevance propagation: zennit's composites on any PyTorch model."""

from __future__ import annotations

from xaikit.explainers.lrp.catalogue import (
    LRP,
    AttnLRP,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPUniformEpsilon,
)
from xaikit.explainers.lrp.conditional import channel_relevance, conditional_relevance
from xaikit.explainers.lrp.registry import lrp_rule

__all__ = [
    "LRP", "AttnLRP", "LRPEpsilonAlpha2Beta1", "LRPEpsilonGammaBox", "LRPEpsilonPlus", "LRPUniformEpsilon",
    "channel_relevance", "conditional_relevance", "lrp_rule",
]  # fmt: skip

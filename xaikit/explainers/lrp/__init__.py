"""Layer-wise relevance propagation: zennit's composites on any PyTorch model."""

from __future__ import annotations

from xaikit.explainers.lrp.variants import (
    LRP,
    AttnLRP,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPUniformEpsilon,
)

__all__ = ["LRP", "AttnLRP", "LRPEpsilonAlpha2Beta1", "LRPEpsilonGammaBox", "LRPEpsilonPlus", "LRPUniformEpsilon"]

"""Finding shortcuts: where explanations look, which samples look alike, and masks of what should not matter."""

from xaikit.shortcuts.concept_atlas import ConceptAtlas, concept_atlas
from xaikit.shortcuts.concept_scores import ConceptScore, ConceptScores
from xaikit.shortcuts.effects import Effect, Scan
from xaikit.shortcuts.found_concepts import FoundConcepts, find_concepts
from xaikit.shortcuts.masks import load_masks, make_masks
from xaikit.shortcuts.overlap import Overlap, mask_overlap
from xaikit.shortcuts.scan import scan
from xaikit.shortcuts.spray import Clusters, SpRAy
from xaikit.shortcuts.tcav import tcav

__all__ = [
    "tcav",
    "find_concepts",
    "FoundConcepts",
    "concept_atlas",
    "ConceptAtlas",
    "ConceptScore",
    "ConceptScores",
    "Clusters",
    "Effect",
    "Overlap",
    "Scan",
    "SpRAy",
    "load_masks",
    "make_masks",
    "mask_overlap",
    "scan",
]

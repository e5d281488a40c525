"""Training a model to be right for the right reasons."""

from xaikit.mitigation.base import Loss, Mitigator
from xaikit.mitigation.cdep import CDEP
from xaikit.mitigation.clarc import AClArC, PClArC, RRClArC
from xaikit.mitigation.concepts import Concept
from xaikit.mitigation.counterexamples import Counterexamples
from xaikit.mitigation.hint import HINT
from xaikit.mitigation.priors import AttributionPrior
from xaikit.mitigation.projections import ChannelSubspace, ChannelSum, Chroma, Direction, Projection
from xaikit.mitigation.rrr import RRR
from xaikit.mitigation.trainer import History

__all__ = [
    "CDEP",
    "HINT",
    "RRR",
    "AClArC",
    "AttributionPrior",
    "ChannelSubspace",
    "ChannelSum",
    "Chroma",
    "Concept",
    "Counterexamples",
    "Direction",
    "History",
    "Loss",
    "Mitigator",
    "PClArC",
    "Projection",
    "RRClArC",
]

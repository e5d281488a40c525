"""Training a model to be right for the right reasons."""

from xaikit.mitigation.assess import Assessment, assess
from xaikit.mitigation.base import Loss, Mitigator
from xaikit.mitigation.cdep import CDEP
from xaikit.mitigation.clarc import AClArC, PClArC, RRClArC
from xaikit.mitigation.compare import Comparison, compare
from xaikit.mitigation.concepts import Concept
from xaikit.mitigation.counterexamples import Counterexamples
from xaikit.mitigation.hint import HINT
from xaikit.mitigation.history import History
from xaikit.mitigation.priors import AttributionPrior
from xaikit.mitigation.projections import ChannelSubspace, ChannelSum, Chroma, Direction, Projection
from xaikit.mitigation.rrr import RRR

__all__ = [
    "AClArC",
    "Assessment",
    "AttributionPrior",
    "CDEP",
    "ChannelSubspace",
    "ChannelSum",
    "Chroma",
    "Comparison",
    "Concept",
    "Counterexamples",
    "Direction",
    "HINT",
    "History",
    "Loss",
    "Mitigator",
    "PClArC",
    "Projection",
    "RRClArC",
    "RRR",
    "assess",
    "compare",
]

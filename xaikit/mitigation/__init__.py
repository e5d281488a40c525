"""Training a model to be right for the right reasons."""

from xaikit.mitigation.assess import Assessment, assess
from xaikit.mitigation.base import Loss, Mitigator
from xaikit.mitigation.cdep import CDEP
from xaikit.mitigation.compare import Comparison, compare
from xaikit.mitigation.history import History
from xaikit.mitigation.projections import ChannelSubspace, ChannelSum, Chroma, Direction, Projection
from xaikit.mitigation.rrr import RRR

__all__ = [
    "CDEP",
    "RRR",
    "Assessment",
    "ChannelSubspace",
    "ChannelSum",
    "Chroma",
    "Comparison",
    "Direction",
    "History",
    "Loss",
    "Mitigator",
    "Projection",
    "assess",
    "compare",
]

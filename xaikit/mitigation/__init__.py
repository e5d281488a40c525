"""Training a model to be right for the right reasons."""

from xaikit.core.boxes import boxes_to_masks
from xaikit.core.mask_shapes import fit_masks
from xaikit.mitigation.assess import assess
from xaikit.mitigation.assessment import Assessment
from xaikit.mitigation.attributed import AttributionMitigator
from xaikit.mitigation.base import Loss, Mitigator
from xaikit.mitigation.cdep import CDEP
from xaikit.mitigation.changed import ChangedMitigator
from xaikit.mitigation.clarc import AClArC, PClArC, RRClArC
from xaikit.mitigation.compare import Comparison, compare
from xaikit.mitigation.concept_layers import ConceptLayer, concept_layers
from xaikit.mitigation.concepts import Concept
from xaikit.mitigation.counterexamples import Counterexamples
from xaikit.mitigation.dfr import DFR
from xaikit.mitigation.fabric import BatchFraction
from xaikit.mitigation.forward import full_precision, logits_of, run_model
from xaikit.mitigation.group_balanced import GroupBalanced
from xaikit.mitigation.group_dro import GroupDRO
from xaikit.mitigation.groups import GroupWeights
from xaikit.mitigation.hint import HINT
from xaikit.mitigation.history import History
from xaikit.mitigation.jtt import JTT
from xaikit.mitigation.mend import mend
from xaikit.mitigation.mend_result import MendResult, MendTry
from xaikit.mitigation.penalties import check_labels, masked_power, score_function, task_loss
from xaikit.mitigation.pgd_ex import PGDEx
from xaikit.mitigation.priors import AttributionPrior
from xaikit.mitigation.projections import ChannelSubspace, ChannelSum, Chroma, Direction, Projection
from xaikit.mitigation.rbr import RBR
from xaikit.mitigation.rrr import RRR

__all__ = [
    "AClArC",
    "Assessment",
    "AttributionMitigator",
    "AttributionPrior",
    "BatchFraction",
    "CDEP",
    "ChangedMitigator",
    "ChannelSubspace",
    "ChannelSum",
    "Chroma",
    "Comparison",
    "Concept",
    "ConceptLayer",
    "Counterexamples",
    "Direction",
    "DFR",
    "GroupBalanced",
    "GroupDRO",
    "GroupWeights",
    "JTT",
    "PGDEx",
    "HINT",
    "History",
    "Loss",
    "MendResult",
    "MendTry",
    "Mitigator",
    "PClArC",
    "Projection",
    "RBR",
    "RRClArC",
    "RRR",
    "assess",
    "boxes_to_masks",
    "check_labels",
    "compare",
    "concept_layers",
    "fit_masks",
    "full_precision",
    "logits_of",
    "masked_power",
    "mend",
    "run_model",
    "score_function",
    "task_loss",
]

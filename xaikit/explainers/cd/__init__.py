"""Contextual decomposition of any PyTorch model (Murdoch et al. 2018, arXiv:1801.05453)."""

from xaikit.explainers.cd import rules
from xaikit.explainers.cd.agglomerative import AgglomerativeDecomposition, Hierarchy, Join
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.decomposition import Decomposition, decompose_call
from xaikit.explainers.cd.explainer import ContextualDecomposition
from xaikit.explainers.cd.registry import cd_rule
from xaikit.explainers.cd.ruleset import RULE_SETS, Approximation, Context, RuleSet
from xaikit.explainers.cd.splits import Split

__all__ = [
    "RULE_SETS",
    "AgglomerativeDecomposition",
    "Approximation",
    "Context",
    "ContextualDecomposition",
    "Decomposed",
    "Decomposition",
    "Hierarchy",
    "Join",
    "RuleSet",
    "Split",
    "cd_rule",
    "decompose_call",
    "rules",
]

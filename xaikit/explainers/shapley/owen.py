"""Owen values: Shapley values over the orders in which groups that stand together in a hierarchy stay together."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit.core import EXPLAINERS, Call, Int
from xaikit.core.structure import Tensors
from xaikit.explainers.shapley.explainers import Shapley
from xaikit.explainers.shapley.hierarchy import (
    Tree,
    check_leaves,
    leaves_of,
    neighbours,
    read_hierarchy,
    sample_groups,
)
from xaikit.explainers.shapley.plans import CoalitionPlan

MOST_SIBLINGS = 20  # 2^20 subsets are never listed
MOST_PAIRS = 200  # of orders


@EXPLAINERS.register("owen_shapley")
class OwenShapley(Shapley):
    """Owen values over a hierarchy of the groups: what shap's PartitionExplainer estimates (Owen 1977).

    The mean of what a group adds, over all orders in which the groups of each part of the hierarchy come one after the
    other: phi_i = mean over these orders of S(x with those before i and i) - S(x with those before i). They sum to
    S(x) - S(baseline). Groups that interact share their value first with those they stand with. Without `hierarchy`
    neighbours stand together: the groups are halved along the longest axis, again and again.

    Few coalitions keep the parts together: in halves, 8 groups have 44 and 16 groups 172. Where `n_coalitions` covers
    them the values are exact. Else orders are drawn, each with its reverse, and `estimate` gives standard errors.

    >>> import torch
    >>> model, x = torch.nn.Linear(4, 2, bias=False), torch.rand(1, 4)
    >>> OwenShapley(model, hierarchy=[[0, 1], [2, 3]]).attribute(x, 0).allclose(x * model.weight[:1], atol=1e-6)
    True
    """

    PASSES = ("n_coalitions",)

    n_segments = 16
    n_coalitions: Annotated[int, Int(low=64, high=512, step=64, ge=4), "most coalitions, that is passes"] = 256
    hierarchy: Annotated[
        Any, read_hierarchy, "nested lists of group numbers, or a linkage matrix; None joins neighbours"
    ] = None

    def _plan(self, players: int, seed: int) -> CoalitionPlan:
        return owen_plan(self.hierarchy, players, self.n_coalitions, seed)

    def _plans(self, groups: Tensors, players: int, call: Call) -> list[CoalitionPlan]:
        if self.hierarchy is not None:
            check_leaves(self.hierarchy, players)
            return [self._plan(players, call.seed)]
        samples = max(len(ids) for ids in groups)
        trees = [neighbours(sample_groups(groups, i)) for i in range(samples)]
        return [owen_plan(tree, players, self.n_coalitions, call.seed) for tree in trees]


def owen_plan(tree: Tree, players: int, budget: int, seed: int) -> CoalitionPlan:
    """The coalitions that keep the parts of a hierarchy together, or random orders that do, and their weights.

    Args:
        tree: a hierarchy of all of the groups, or some; others have the value 0.
        players: the number of groups.
        budget: most coalitions; at least one order and its reverse are taken.
        seed: of the orders.
    """
    book = _Book(players)
    terms = _exact_terms(tree, budget)
    if terms is not None:
        for leaf, before, weight in terms:
            book.add(0, leaf, before, weight)
        return book.plan(1)
    count = sum(1 for _ in leaves_of(tree))
    pairs = min(MOST_PAIRS, max(1, (budget - 2) // (2 * (count - 1))))
    generator = torch.Generator().manual_seed(seed)
    for pair in range(pairs):
        order = _order(tree, generator)
        for direction in (order, order[::-1]):
            before = 0
            for leaf in direction:
                book.add(pair, leaf, before, 0.5)
                before |= 1 << leaf
    return book.plan(pairs, drawn=True)


class _Book:
    """Which coalitions are evaluated, as the bits of a number, and what they weigh in each part."""

    def __init__(self, players: int) -> None:
        self._players = players
        self._row = {0: 0}
        self._terms: list[tuple[int, int, int, float]] = []

    def add(self, part: int, leaf: int, before: int, weight: float) -> None:
        """Count what a group adds to those before it."""
        for mask, sign in ((before | 1 << leaf, 1), (before, -1)):
            row = self._row.setdefault(mask, len(self._row))
            self._terms.append((part, leaf, row, sign * weight))

    def plan(self, parts: int, *, drawn: bool = False) -> CoalitionPlan:
        """What was counted, as a plan."""
        flags = [[bool(mask >> i & 1) for i in range(self._players)] for mask in self._row]
        weights = torch.zeros(parts, self._players, len(flags), dtype=torch.float64, device="cpu")
        where = tuple(
            torch.tensor(list(numbers), device="cpu") for numbers in zip(*(t[:3] for t in self._terms), strict=True)
        )
        weights.index_put_(
            where, torch.tensor([t[3] for t in self._terms], dtype=torch.float64, device="cpu"), accumulate=True
        )
        if not drawn:
            return CoalitionPlan(torch.tensor(flags, device="cpu"), weights[0])
        factor = 1 / (parts * (parts - 1)) if parts > 1 else math.nan
        return CoalitionPlan(torch.tensor(flags, device="cpu"), weights.mean(0), weights, factor)


def _exact_terms(tree: Tree, budget: int) -> list[tuple[int, int, float]] | None:
    """For each group all coalitions before it, and what each weighs; None where they are more than the budget."""
    terms: list[tuple[int, int, float]] = []
    rows: set[int] = set()

    def visit(node: Tree, contexts: list[tuple[int, float]]) -> bool:
        if isinstance(node, int):
            terms.extend((node, mask, weight) for mask, weight in contexts)
            rows.update(mask for mask, _ in contexts)
            rows.update(mask | 1 << node for mask, _ in contexts)
            return len(rows) <= budget
        others = len(node) - 1
        if others > MOST_SIBLINGS or len(contexts) * 2**others > budget:
            return False
        bits = [sum(1 << leaf for leaf in leaves_of(child)) for child in node]
        shares = [1 / ((others + 1) * math.comb(others, size)) for size in range(others + 1)]
        for i, child in enumerate(node):
            siblings = bits[:i] + bits[i + 1 :]
            inner = [
                (mask | sum(bit for bit, is_before in zip(siblings, before, strict=True) if is_before), w * shares[k])
                for before in itertools.product((False, True), repeat=others)
                for k in [sum(before)]
                for mask, w in contexts
            ]
            if not visit(child, inner):
                return False
        return True

    return terms if visit(tree, [(0, 1.0)]) else None


def _order(tree: Tree, generator: torch.Generator) -> list[int]:
    """A random order of the groups in which each part of the hierarchy stays together."""
    if isinstance(tree, int):
        return [tree]
    chosen: Tensor = torch.randperm(len(tree), generator=generator, device="cpu")
    return [leaf for i in chosen.tolist() for leaf in _order(tree[i], generator)]

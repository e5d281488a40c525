"""Which coalitions are evaluated, and how the Shapley values are made of their scores.

Every method here is linear: values = weights @ scores, with weights that depend on nothing but the number of players
and the seed. So a derivative of the scores gives that of the values, and one plan serves all samples.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

FOLDS = 10  # of the jackknife


@dataclasses.dataclass(frozen=True)
class CoalitionPlan:
    """What is evaluated, and what is made of it.

    Attributes:
        coalitions: which players take part, flags (C, n); the first has none, the last all.
        weights: (n, C), float64: the values are ``weights @ scores``.
        parts: weights of parts of the coalitions, (F, n, C), for the standard errors; None where nothing is random.
        factor: the squared standard error is this times the sum of squares of the parts less their mean.
    """

    coalitions: Tensor
    weights: Tensor
    parts: Tensor | None = None
    factor: float = 0.0


def joined_coalitions(plans: Sequence[CoalitionPlan]) -> Tensor:
    """The coalitions of a plan for all samples or of one for each, (plans, C, n), repeated where a plan has fewer.

    Args:
        plans: one or N.
    """
    most = max(len(plan.coalitions) for plan in plans)
    return torch.stack(
        [plan.coalitions[torch.arange(most, device="cpu").clamp_max(len(plan.coalitions) - 1)] for plan in plans]
    )


def spread_plan(plan: CoalitionPlan, numbers: Tensor, players: int) -> CoalitionPlan:
    """The plan for some of the players, the others absent and without a value.

    Args:
        plan: of as many players.
        numbers: which ones, ascending.
        players: how many there are in all.
    """
    if len(numbers) == players:
        return plan

    def among_all(tensor: Tensor, axis: int) -> Tensor:
        shape = [*tensor.shape[:axis], players, *tensor.shape[axis + 1 :]]
        return tensor.new_zeros(shape).index_copy_(axis, numbers, tensor)

    parts = None if plan.parts is None else among_all(plan.parts, 1)
    return CoalitionPlan(among_all(plan.coalitions, 1), among_all(plan.weights, 0), parts, plan.factor)


def valued(plans: Sequence[CoalitionPlan], scores: Tensor) -> Tensor:
    """The values (N, n) of the groups.

    Args:
        plans: one, or one for each sample.
        scores: of the coalitions, (C, N).
    """
    columns = [scores] if len(plans) == 1 else scores.split(1, 1)
    return torch.cat([(p.weights.to(s) @ s[: len(p.coalitions)]).T for p, s in zip(plans, columns, strict=True)])


def spread_of(plans: Sequence[CoalitionPlan], scores: Tensor) -> Tensor:
    """The standard errors (N, n) of the values; 0 where nothing was drawn.

    Args:
        plans: as for `valued`.
        scores: likewise.
    """
    columns, spreads = [scores] if len(plans) == 1 else scores.split(1, 1), []
    for plan, column in zip(plans, columns, strict=True):
        if plan.parts is None:
            spreads.append(column.new_zeros(column.shape[1], plan.weights.shape[0]))
        else:
            parts = plan.parts.to(column) @ column[: len(plan.coalitions)]
            spreads.append((plan.factor * (parts - parts.mean(0)).square().sum(0)).sqrt().T)
    return torch.cat(spreads)


def exact_plan(players: int) -> CoalitionPlan:
    """All coalitions: sum over S without i of |S|! (n - |S| - 1)! / n! (S(S and i) - S(S)).

    Args:
        players: n.
    """
    numbers = torch.arange(2**players, device="cpu")
    coalitions = (numbers[:, None] >> torch.arange(players, device="cpu")) & 1 == 1
    sizes = coalitions.sum(1)
    added = [1 / (players * math.comb(players - 1, size)) for size in range(players)]  # by the size of S
    with_it = torch.tensor([0.0, *added], dtype=torch.float64, device="cpu")[sizes]
    without = torch.tensor([*added, 0.0], dtype=torch.float64, device="cpu")[sizes]
    return CoalitionPlan(coalitions, torch.where(coalitions.T, with_it, -without))


def permutation_plan(players: int, budget: int, seed: int) -> CoalitionPlan:
    """The mean of what a player adds over random orders, each with its reverse (Mitchell et al. 2022).

    Args:
        players: n.
        budget: most coalitions; at least one order and its reverse are taken.
        seed: of the orders.
    """
    if players == 1:
        return exact_plan(1)
    pairs = max(1, (budget - 2) // (2 * (players - 1)))
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.zeros(players, dtype=torch.bool, device="cpu")]
    parts = torch.zeros(pairs, players, 2 + 2 * pairs * (players - 1), dtype=torch.float64, device="cpu")
    last = parts.shape[2] - 1
    for p in range(pairs):
        order = torch.randperm(players, generator=generator, device="cpu")
        for direction in (order, order.flip(0)):
            before = 0
            for step, player in enumerate(direction.tolist()):
                after = last if step == players - 1 else len(rows)
                if after != last:
                    present = torch.zeros(players, dtype=torch.bool, device="cpu")
                    present[direction[: step + 1]] = True
                    rows.append(present)
                parts[p, player, after] += 0.5
                parts[p, player, before] -= 0.5
                before = after
    rows.append(torch.ones(players, dtype=torch.bool, device="cpu"))
    factor = 1 / (pairs * (pairs - 1)) if pairs > 1 else math.nan
    return CoalitionPlan(torch.stack(rows), parts.mean(0), parts, factor)


def kernel_plan(players: int, budget: int, seed: int) -> CoalitionPlan:
    """A linear fit to coalitions with the weights of the Shapley kernel, under the constraint that the values add up.

    Coalitions of the sizes that weigh most (one player, all but one, ...) are all taken while the budget allows it; the
    others are drawn, each with its complement (Lundberg and Lee 2017, arXiv:1705.07874; Covert and Lee 2021,
    arXiv:2012.01536). If the budget covers all coalitions, the values are exact.

    Args:
        players: n.
        budget: most coalitions.
        seed: of the draws.
    """
    if 2**players <= budget or players == 1:
        return exact_plan(players)
    full, weight, other_sizes = _enumerated(players, max(2 * players, budget - 2))
    drawn, counts = _drawn(players, other_sizes, budget - 2 - len(full), seed)
    other_mass = sum(_mass(players, size) for size in other_sizes)
    # A pair is one draw, so that its two coalitions share the weight of the sizes that were not enumerated.
    weight = torch.cat([weight, other_mass * counts / counts.sum().clamp_min(1)])
    inner = torch.cat([full, drawn])
    ends = (
        torch.zeros(1, players, dtype=torch.bool, device="cpu"),
        torch.ones(1, players, dtype=torch.bool, device="cpu"),
    )
    coalitions = torch.cat([ends[0], inner, ends[1]])
    fitted = _fitted(inner, weight)
    folds = min(FOLDS, len(drawn) // 2)
    if folds < 2:
        if not len(drawn):
            return CoalitionPlan(coalitions, fitted)
        return CoalitionPlan(coalitions, fitted, fitted[None], math.nan)
    parts = []
    fold_of = torch.full((len(inner),), -1, device="cpu")
    fold_of[len(full) :] = torch.arange(len(drawn), device="cpu") // 2 % folds
    for fold in range(folds):  # without one part of the draws
        fold_weight = torch.where(fold_of == fold, 0.0, weight)
        random = fold_of >= 0
        fold_weight = torch.where(random, fold_weight * other_mass / fold_weight[random].sum(), fold_weight)
        parts.append(_fitted(inner, fold_weight))
    return CoalitionPlan(coalitions, fitted, torch.stack(parts), (folds - 1) / folds)


def _mass(players: int, size: int) -> float:
    """What all coalitions of a size weigh together."""
    return (players - 1) / (size * (players - size))


def _enumerated(players: int, budget: int) -> tuple[Tensor, Tensor, list[int]]:
    """The coalitions of the sizes that are taken completely, their weights, and the sizes that are left."""
    rows: list[tuple[int, ...]] = []
    weights: list[float] = []
    other_sizes = list(range(1, players))
    for size in range(1, players // 2 + 1):
        pair = {size, players - size}
        number = sum(math.comb(players, s) for s in pair)
        share = sum(_mass(players, s) for s in pair) / sum(_mass(players, s) for s in other_sizes)
        if number > share * (budget - len(rows)) + 1e-9:
            break
        for s in sorted(pair):
            for chosen in itertools.combinations(range(players), s):
                rows.append(chosen)
                weights.append(_mass(players, s) / math.comb(players, s))
            other_sizes.remove(s)
    flags = torch.zeros(len(rows), players, dtype=torch.bool, device="cpu")
    for flag, chosen in zip(flags, rows, strict=True):
        flag[list(chosen)] = True
    return flags, torch.tensor(weights, dtype=torch.float64, device="cpu"), other_sizes


def _drawn(players: int, sizes: list[int], budget: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random coalitions of the sizes that are left, pair by pair, and how often each was drawn."""
    if not sizes or budget < 2:
        return torch.zeros(0, players, dtype=torch.bool, device="cpu"), torch.zeros(
            0, dtype=torch.float64, device="cpu"
        )
    generator = torch.Generator().manual_seed(seed)
    masses = torch.tensor([_mass(players, size) for size in sizes], device="cpu")
    pairs: dict[tuple[int, ...], int] = {}
    for _ in range(4 * budget):  # a pair that comes again weighs more, and costs nothing
        size = sizes[int(torch.multinomial(masses, 1, generator=generator))]
        chosen = torch.randperm(players, generator=generator, device="cpu")[:size].tolist()
        # Of a coalition and its complement, the one without player 0 stands for both.
        members = set(chosen) if 0 not in chosen else set(range(players)) - set(chosen)
        key = tuple(sorted(members))
        if key not in pairs and 2 * len(pairs) + 2 > budget:
            break
        pairs[key] = pairs.get(key, 0) + 1
    flags = torch.zeros(2 * len(pairs), players, dtype=torch.bool, device="cpu")
    for i, key in enumerate(pairs):
        flags[2 * i, list(key)] = True
        flags[2 * i + 1] = ~flags[2 * i]
    counts = torch.tensor(list(pairs.values()), dtype=torch.float64, device="cpu").repeat_interleave(2)
    return flags, counts


def _fitted(inner: Tensor, weight: Tensor) -> Tensor:
    """The weights (n, C + 2) of the scores of none, of the coalitions (C, n), and of all."""
    design = inner.double()
    players = design.shape[1]
    reduced = design[:, :-1] - design[:, -1:]  # the last value is what the others leave of the whole difference
    root = weight.sqrt()[:, None]
    solve = torch.linalg.pinv(root * reduced) * root.T  # (n - 1, C)
    of_all = -(solve @ design[:, -1])
    of_none = -solve.sum(1) - of_all
    first = torch.cat([of_none[:, None], solve, of_all[:, None]], 1)
    last = -first.sum(0, keepdim=True)
    last[0, 0] -= 1
    last[0, -1] += 1
    return torch.cat([first, last]).view(players, -1)

"""The Shapley interaction index of pairs of groups, over all coalitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, overload

import torch
from torch import Tensor
from tqdm import tqdm

from xaikit.core import Call
from xaikit.core.errors import InvalidTypeError
from xaikit.core.several_targets import run_for_targets
from xaikit.core.structure import Tensors
from xaikit.core.target_values import Target
from xaikit.core.targets import is_several
from xaikit.explainers.interactions.result import Interactions, group_names
from xaikit.explainers.shapley.explainers import ExactShapley


@overload
def shapley_interactions(
    explainer: ExactShapley,
    inputs: Any,
    targets: list[Target] | list[str],
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> list[Interactions]: ...


@overload
def shapley_interactions(
    explainer: ExactShapley,
    inputs: Any,
    targets: Any = None,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Interactions: ...


def shapley_interactions(
    explainer: ExactShapley,
    inputs: Any,
    targets: Any = None,
    *,
    names: Sequence[str] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Interactions | list[Interactions]:
    """The Shapley interaction index of each pair of groups, exact, at the 2^n passes of the Shapley values.

    I_ij = sum over coalitions S without i and j of |S|! (n - |S| - 2)! / (n - 1)!
    (v(S, i, j) - v(S, i) - v(S, j) + v(S)) (Grabisch and Roubens 1999, 10.1007/s001820050125). The matrix has I_ij / 2
    at (i, j) and (j, i), and on its diagonal what is left of the Shapley value phi_i, so that each row sums to phi_i
    and all entries to S(x) - S(baseline) (Lundberg et al. 2020, 10.1038/s42256-019-0138-9).

    Args:
        explainer: with a model; its baseline, groups (`feature_mask`, else `n_segments` equal parts, over all inputs of
            the model together), layer and head count. At most 15 groups.
        inputs: as for `Explainer.attribute`.
        targets: likewise: any target; None for a model with a single output; several in a list share the passes.
        names: of the groups.
        seed: as for `Explainer.attribute`.
        progress: show a progress bar.

    Returns:
        Interactions, in units of the score, without a graph; of several targets a list of them, in the same order.

    Raises:
        InvalidInputError: for too many groups, or another number of names.
        InvalidTypeError: for another explainer.

    >>> class Product(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x[:, 0] * x[:, 1] + x[:, 2]
    >>> x = torch.tensor([[2.0, 3.0, 5.0]])
    >>> shapley_interactions(ExactShapley(Product()), x, progress=False).to_pandas().values.tolist()
    [[0.0, 3.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 5.0]]
    """
    if not isinstance(explainer, ExactShapley):
        raise InvalidTypeError(
            f"Shapley interactions are computed over all coalitions: give ExactShapley(model), got {explainer!r}"
        )
    results: list[Interactions] = []

    def inside(call: Call) -> tuple[Tensors, ...]:
        groups, players = explainer.groups(call)
        plan = explainer._plan(players, call.seed)
        total = call.n * len(plan.coalitions)
        with tqdm(total=total, disable=not progress, desc="Shapley interactions", unit="score") as bar:
            every = explainer.coalition_scores(call, groups, plan.coalitions[None], bar.update).detach().double()
        titles = group_names(names, players, singles=sum(ids[0].numel() for ids in groups) == players)
        for scores in every.unbind(-1) if call.more_targets else [every]:
            matrix = _matrix(scores, plan.weights.to(scores) @ scores, players)
            gap = scores[-1] - scores[0] - matrix.sum((1, 2))
            results.append(Interactions(matrix.cpu(), titles, "Shapley interactions", gap.cpu()))
        return ()

    run_for_targets(explainer, inside, inputs, targets, seed=seed)
    return results if is_several(targets) else results[0]


def _matrix(scores: Tensor, values: Tensor, players: int) -> Tensor:
    """The matrices (N, n, n), of the scores (2^n, N) and the Shapley values (n, N).

    Bit i of a row's number says whether group i is present.
    """
    matrix = scores.new_zeros(scores.shape[1], players, players)
    numbers = torch.arange(len(scores), device=scores.device)
    sizes = ((numbers[:, None] >> torch.arange(players, device=scores.device)) & 1).sum(1)
    for i, j in itertools.combinations(range(players), 2):
        bit_i, bit_j = 1 << i, 1 << j
        without = numbers[(numbers & (bit_i | bit_j)) == 0]
        together = scores[without | bit_i | bit_j] - scores[without | bit_i] - scores[without | bit_j] + scores[without]
        share = [1 / ((players - 1) * math.comb(players - 2, size)) for size in range(players - 1)]
        weights = torch.tensor(share, dtype=scores.dtype, device=scores.device)[sizes[without]]
        matrix[:, i, j] = matrix[:, j, i] = weights @ together / 2
    return matrix + torch.diag_embed(values.T - matrix.sum(2))

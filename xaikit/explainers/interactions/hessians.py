"""Integrated Hessians: the second derivative along the line from a baseline."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from xaikit.core import FEATURE_MASKS, Call, Choice
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.params import Int
from xaikit.core.several_targets import run_for_targets
from xaikit.core.structure import Tensors, by_row
from xaikit.core.target_values import Target
from xaikit.core.targets import is_several
from xaikit.explainers.feature_groups import make_groups
from xaikit.explainers.integrated_gradients import IntegratedGradients
from xaikit.explainers.interactions.result import Interactions, group_names

MOST_GROUPS = 256  # each takes a product with the second derivative at each point
TINY = torch.finfo(torch.float64).tiny
TOLERANCE = 0.05  # share of S(x) - S(baseline) that may be missed without a warning


@overload
def integrated_hessians(
    explainer: IntegratedGradients,
    inputs: Any,
    targets: list[Target] | list[str],
    *,
    feature_mask: Any = None,
    n_segments: int = 32,
    names: Sequence[str] | None = None,
    progress: bool = True,
) -> list[Interactions]: ...


@overload
def integrated_hessians(
    explainer: IntegratedGradients,
    inputs: Any,
    targets: Any = None,
    *,
    feature_mask: Any = None,
    n_segments: int = 32,
    names: Sequence[str] | None = None,
    progress: bool = True,
) -> Interactions: ...


def integrated_hessians(
    explainer: IntegratedGradients,
    inputs: Any,
    targets: Any = None,
    *,
    feature_mask: Any = None,
    n_segments: int = 32,
    names: Sequence[str] | None = None,
    progress: bool = True,
) -> Interactions | list[Interactions]:
    """The interactions of pairs of groups: integrated gradients of integrated gradients (Janizek et al. 2021).

    With d = x - b, entry (i, j) is d_i d_j ∫∫ a c d²S/dx_i dx_j (b + a c d) da dc, and on the diagonal also
    d_i ∫∫ dS/dx_i (b + a c d) da dc, both over [0, 1] (arXiv:2002.04138, eq. 4 and 5). As a c is distributed with
    density -ln u, one integral over u remains; it is computed by Gauss's rule for that weight at `n_steps` points.
    The entry of two groups is the sum over their features. Each row sums to the integrated gradients of its group, all
    entries to S(x) - S(b), if S is smooth. ReLU has a second derivative of zero nearly everywhere, so exchange it for
    softplus, as the paper does.

    Args:
        explainer: integrated gradients with a model; `n_steps`, the baseline, layer, head and `max_rows` count.
        inputs: as for `Explainer.attribute`.
        targets: likewise: any target; None for a model with a single output; or several in a list.
        feature_mask: the groups, over all inputs of the model together, such as "slic" or a tensor of whole
            numbers; None divides the input evenly.
        n_segments: most groups where no feature mask is given.
        names: of the groups.
        progress: show a progress bar.

    Returns:
        Interactions, in units of the score, without a graph; of several targets a list of them, in the same order.
        Each group costs `n_steps` products with a second derivative, for each target.

    Raises:
        InvalidInputError: for more than 256 groups, or another number of names.
        InvalidTypeError: for another explainer.

    Warns:
        UserWarning: where the entries miss S(x) - S(b) by more than 5 %.

    >>> class Square(torch.nn.Module):
    ...     def forward(self, x):
    ...         return x.sum(1) ** 2
    >>> result = integrated_hessians(IntegratedGradients(Square()), torch.tensor([[1.0, 2.0]]), progress=False)
    >>> result.to_pandas().round(3).values.tolist()
    [[2.0, 1.0], [1.0, 5.0]]
    """
    if not isinstance(explainer, IntegratedGradients):
        raise InvalidTypeError(f"integrated Hessians take IntegratedGradients(model), got {explainer!r}")
    mask = Choice(FEATURE_MASKS, optional=True).check(feature_mask, "feature_mask")
    n_segments = Int(ge=1).check(n_segments, "n_segments")
    results: list[Interactions] = []
    misses: list[Tensor] = []

    def inside(call: Call) -> tuple[Tensors, ...]:
        groups = make_groups(mask, call.inputs, n_segments, call.tokens)
        count = 1 + max(int(ids.max()) for ids in groups)
        if count > MOST_GROUPS:
            raise InvalidInputError(
                f"integrated Hessians take at most {MOST_GROUPS} groups, since each takes {explainer.n_steps} passes, "
                f"got {count}; make fewer with n_segments= or feature_mask="
            )
        titles = group_names(names, count, singles=sum(ids[0].numel() for ids in groups) == count)
        total = call.n * explainer.n_steps * count * len(call.targets)
        with tqdm(total=total, disable=not progress, desc="integrated Hessians", unit="product") as bar:
            for one in map(call.of_target, call.targets):
                matrix = _matrix(explainer, one, groups, count, bar.update)
                with torch.no_grad():
                    promised = (one.scores(one.inputs) - one.scores(explainer.baseline.of(one))).double()
                gap = promised - matrix.sum((1, 2))
                results.append(Interactions(matrix.cpu(), titles, "integrated Hessians", gap.detach().cpu()))
                # What rounding leaves of large entries that cancel is no miss.
                size = promised.abs().maximum(1e-4 * matrix.abs().sum((1, 2))).clamp_min(TINY)
                misses.append((gap.abs() / size).detach())
        return ()

    run_for_targets(explainer, inside, inputs, targets, create_graph=True)
    _warn(torch.cat(misses))
    return results if is_several(targets) else results[0]


def _matrix(
    explainer: IntegratedGradients, call: Call, groups: Tensors, count: int, tick: Callable[[int], object]
) -> Tensor:
    """The matrices (N, n, n)."""
    points, weights = log_rule(explainer.n_steps)
    ends = tuple(b.detach() for b in explainer.baseline.of(call))
    parts, n_done = [], 0
    for part, passes in call.passes(explainer.n_steps, explainer.max_rows):
        samples = slice(n_done, n_done + part.n)
        n_done += part.n
        inputs = tuple(x.detach() for x in part.inputs)
        starts = tuple(b[samples] for b in ends)
        steps = tuple(x - b for x, b in zip(inputs, starts, strict=True))
        ids = tuple(
            i.expand(1, *x.shape[1:]) if len(i) == 1 else i[samples] for i, x in zip(groups, inputs, strict=True)
        )
        total = torch.zeros(part.n, count, count, dtype=torch.float64, device=inputs[0].device)
        for copies in passes:
            at, weight = points[copies.start : copies.stop], weights[copies.start : copies.stop]
            line = tuple(
                torch.stack([b + float(u) * d for u in at]).flatten(0, 1).requires_grad_()
                for b, d in zip(starts, steps, strict=True)
            )
            gradients = part.grad_of(line, len(copies))
            first = _sums(gradients, steps, ids, count, len(copies))  # (k, n, groups)
            by_copy = weight.to(first)[:, None, None]
            total += torch.diag_embed((by_copy * first).sum(0))
            for group in range(count):
                # d² S times the step of one group, at all points at once.
                moved = sum(
                    (g.unflatten(0, (len(copies), part.n)) * (d * (i == group))).sum()
                    for g, d, i in zip(gradients, steps, ids, strict=True)
                )
                products = _derivative(moved, line)
                second = _sums(products, steps, ids, count, len(copies))
                total[:, group] += (by_copy * at.to(first)[:, None, None] * second).sum(0)
                tick(part.n * len(copies))
        parts.append((total + total.mT) / 2)
    return torch.cat(parts)


def _derivative(value: Any, line: Tensors) -> Tensors:
    """The derivative by points of the line; zero where the gradient is the same everywhere."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        return tuple(torch.zeros_like(x) for x in line)
    products = torch.autograd.grad(value, line, retain_graph=True, allow_unused=True)
    return tuple(torch.zeros_like(x) if p is None else p for p, x in zip(products, line, strict=True))


def _sums(tensors: Tensors, steps: Tensors, ids: Tensors, count: int, copies: int) -> Tensor:
    """Tensors (k * n, ...) times the step, summed over the features of each group, (k, n, groups), in float64."""
    total = torch.zeros(copies, len(steps[0]), count, dtype=torch.float64, device=steps[0].device)
    for tensor, step, numbers in zip(tensors, steps, ids, strict=True):
        weighted = (tensor.detach().unflatten(0, (copies, len(step))) * step).double().flatten(2)
        total.scatter_add_(2, by_row(numbers).expand(weighted.shape), weighted)
    return total


def log_rule(n: int) -> tuple[Tensor, Tensor]:
    """Points in (0, 1) and weights of Gauss's rule for the integral of -ln(u) f(u), exact up to degree 2n - 1.

    Args:
        n: number of points.
    """
    nodes, parts = np.polynomial.legendre.leggauss(n + 1)
    nodes, parts = (nodes + 1) / 2, parts / 2
    # The product of two uniform numbers has the density -ln u; this discrete measure has its moments up to 2n + 1.
    u, measure = np.outer(nodes, nodes).ravel(), np.outer(parts, parts).ravel()
    before, now = np.zeros_like(u), np.full_like(u, 1 / np.sqrt(measure.sum()))
    diagonal, coupling = [], [0.0]
    for _ in range(n):  # Stieltjes: the polynomials that are orthonormal under the measure
        diagonal.append(float((measure * u * now * now).sum()))
        after = (u - diagonal[-1]) * now - coupling[-1] * before
        coupling.append(float(np.sqrt((measure * after * after).sum())))
        before, now = now, after / coupling[-1]
    jacobi = np.diag(diagonal) + np.diag(coupling[1:n], 1) + np.diag(coupling[1:n], -1)
    points, vectors = np.linalg.eigh(jacobi)
    return torch.from_numpy(points), torch.from_numpy(vectors[0] ** 2 * measure.sum())


def _warn(shares: Tensor) -> None:
    """Warn where the entries miss much of the difference of the scores, or are no numbers."""
    worst = float(shares.max())
    if not worst <= TOLERANCE:
        warnings.warn(
            f"the interactions miss S(x) - S(baseline) by up to {100 * worst:.3g} % of it; a ReLU has no second "
            "derivative (exchange it for a softplus), a curved model needs more n_steps=, and shapley_interactions "
            "needs no derivative",
            stacklevel=3,
        )

"""Shapley values of groups of features, with their standard errors."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor

from xaikit.core import BASELINES, EXPLAINERS, FEATURE_MASKS, Call, Choice, Explainer, Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors, by_row
from xaikit.explainers.copy_scores import scores_of_copies
from xaikit.explainers.feature_groups import make_groups
from xaikit.explainers.shapley.hierarchy import sample_groups
from xaikit.explainers.shapley.plans import (
    CoalitionPlan,
    exact_plan,
    joined_coalitions,
    kernel_plan,
    permutation_plan,
    spread_of,
    spread_plan,
    valued,
)

MOST_EXACT = 15  # groups: 32,768 passes


class ShapleyEstimate(NamedTuple):
    """Shapley values and their standard errors, each in the structure of the inputs."""

    values: Any
    standard_errors: Any


class Shapley(Explainer, abc.ABC):
    """Base: the Shapley value of each group of features, shared evenly among the features of the group.

    A coalition's score is that of the input with the features of all other groups replaced by the baseline. The values
    sum to S(x) - S(baseline). They are linear in the scores, so a derivative is exact.
    """

    NEEDS_GRADIENT = False
    USES_GLOBAL_RANDOM = False
    GAP_TOLERANCE = 1e-3

    baseline: Annotated[
        Any, Choice(BASELINES), "where a feature is absent: a name, a number, a tensor or a Baseline"
    ] = "zeros"
    feature_mask: Annotated[
        Any, Choice(FEATURE_MASKS, optional=True), "groups that are switched together; None divides the input evenly"
    ] = None
    n_segments: Annotated[int, Int(ge=1), "most groups where no feature mask is given"] = 10
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most rows in one forward pass; None chooses"] = None

    @abc.abstractmethod
    def _plan(self, players: int, seed: int) -> CoalitionPlan:
        """What is evaluated for a number of groups."""

    def _plans(self, groups: Tensors, players: int, call: Call) -> list[CoalitionPlan]:
        """One plan for all samples, or one for each where their groups differ: as many as a sample has by itself."""
        samples = max(len(ids) for ids in groups)
        if samples == 1:
            return [self._plan(players, call.seed)]
        present = [torch.cat([ids.flatten() for ids in sample_groups(groups, i)]).unique() for i in range(samples)]
        plans = {count: self._plan(count, call.seed) for count in {len(numbers) for numbers in present}}
        return [spread_plan(plans[len(numbers)], numbers.cpu(), players) for numbers in present]

    def estimate(
        self, inputs: Any, targets: Any = None, *, create_graph: bool = False, seed: int = 0
    ) -> ShapleyEstimate:
        """The values with their standard errors, at the cost of the values alone.

        Args:
            inputs: as for `attribute`.
            targets: as for `attribute`.
            create_graph: as for `attribute`.
            seed: as for `attribute`.

        Returns:
            Both in the structure of the inputs. The standard errors are of the values of the features; they are 0 where
            nothing was drawn, and NaN where too little was.

        Raises:
            InvalidInputError, InvalidTypeError, UnboundError: as for `attribute`.
        """
        call = self.run_call(
            lambda call: self._estimated(call, errors=True)[0], inputs, targets, create_graph=create_graph, seed=seed
        )
        return ShapleyEstimate(*call)

    def _attribute(self, call: Call) -> Tensors:
        return self._attribute_each(call)[0]

    def _attribute_each(self, call: Call) -> tuple[Tensors, ...]:
        return tuple(values for (values,) in self._estimated(call, errors=False))

    def _estimated(self, call: Call, *, errors: bool) -> list[tuple[Tensors, ...]]:
        """The values, and their standard errors, for each of the call's targets; all share the passes."""
        groups, players = self.groups(call)
        plans = self._plans(groups, players, call)
        scores = self.coalition_scores(call, groups, joined_coalitions(plans))
        sizes = _sizes(groups, call.inputs, players)
        wide = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
        numbers = [valued, spread_of] if errors else [valued]
        return [
            tuple(self._spread(number(plans, of_target) / sizes, groups, call.inputs) for number in numbers)
            for of_target in (wide.unbind(-1) if call.more_targets else [wide])
        ]

    def groups(self, call: Call) -> tuple[Tensors, int]:
        """The number of the group of each feature, and how many groups there are.

        Args:
            call: the open call.
        """
        groups = make_groups(self.feature_mask, call.inputs, self.n_segments, call.tokens)
        return groups, 1 + max(int(ids.max()) for ids in groups)

    def coalition_scores(
        self,
        call: Call,
        groups: Tensors,
        coalitions: Tensor,
        tick: Callable[[int], object] = lambda scores: None,  # noqa: ARG005
    ) -> Tensor:
        """The score of each sample with the groups of each coalition alone, (C, N); of several targets (C, N, T).

        Args:
            call: the open call.
            groups: as `groups` gives them.
            coalitions: flags (N or 1, C, n).
            tick: called after each pass with the number of its scores.
        """
        baselines = self.baseline.of(call)
        coalitions = coalitions.to(call.inputs[0].device)

        def change(part: Call, samples: slice, some: range) -> Tensors:
            flags = coalitions[:, some.start : some.stop]
            flags = flags if len(flags) == 1 else flags[samples]
            changed = []
            for ids, x, b in zip(groups, part.inputs, baselines, strict=True):
                of_part = ids if len(ids) == 1 else ids[samples]
                rows = torch.arange(len(flags), device=ids.device).view(-1, *[1] * (ids.ndim - 1))
                changed.append(torch.where(flags.movedim(1, 0)[:, rows, of_part], x, b[samples]))
            return tuple(changed)

        return scores_of_copies(call, coalitions.shape[1], change, self.max_rows, tick)

    def _spread(self, values: Tensor, groups: Tensors, inputs: Tensors) -> Tensors:
        """The value (N, n) of each group, at each of its features."""
        return tuple(
            values.gather(1, by_row(ids.expand(len(x), *x.shape[1:])))
            .view(x.shape)
            .to(x.dtype if x.is_floating_point() else values.dtype)
            for ids, x in zip(groups, inputs, strict=True)
        )

    def _promised_total(self, call: Call) -> Tensor | None:
        return call.scores(call.inputs) - call.scores(self.baseline.of(call))


def _sizes(groups: Tensors, inputs: Tensors, players: int) -> Tensor:
    """How many features each group has, (N, n); 1 for a group that a sample does not have."""
    sizes = torch.zeros(len(inputs[0]), players, device=inputs[0].device)
    for ids, x in zip(groups, inputs, strict=True):
        flat = by_row(ids.expand(len(x), *x.shape[1:]))
        sizes.scatter_add_(1, flat, torch.ones_like(flat, dtype=sizes.dtype))
    return sizes.clamp_min(1)


@EXPLAINERS.register("exact_shapley")
class ExactShapley(Shapley):
    """Shapley values over all coalitions of the groups (Shapley 1953): 2^n passes for n groups, at most 15.

    phi_i = sum over coalitions S without i of |S|! (n - |S| - 1)! / n! (S(x with S and i) - S(x with S)). Each group's
    value is shared evenly among its features, and all sum to S(x) - S(baseline).

    >>> import torch
    >>> model, x = torch.nn.Linear(3, 2, bias=False), torch.rand(1, 3)
    >>> ExactShapley(model).attribute(x, 0).allclose(x * model.weight[:1], atol=1e-6)
    True
    """

    PASSES = (512,)

    def _plan(self, players: int, seed: int) -> CoalitionPlan:  # noqa: ARG002
        if players > MOST_EXACT:
            raise InvalidInputError(
                f"exact Shapley values of {players} groups take 2^{players} = {2**players:,} passes, so at most "
                f"{MOST_EXACT} groups are allowed; use kernel_shapley or permutation_shapley, or make fewer groups "
                "with n_segments= or feature_mask="
            )
        return exact_plan(players)


@EXPLAINERS.register("kernel_shapley")
class KernelShapley(Shapley):
    """Shapley values by a weighted linear fit to coalitions of the groups (Lundberg and Lee 2017, arXiv:1705.07874).

    Coalitions of the sizes that weigh most are all evaluated, the others are drawn in pairs with their complements
    (Covert and Lee 2021, arXiv:2012.01536), and the values are made to sum to S(x) - S(baseline). Exact where
    `n_coalitions` covers all 2^n. `estimate` also gives standard errors, by a jackknife over the drawn pairs.

    >>> import torch
    >>> model, x = torch.nn.Linear(3, 2, bias=False), torch.rand(1, 3)
    >>> KernelShapley(model).attribute(x, 0).allclose(x * model.weight[:1], atol=1e-6)
    True
    """

    PASSES = ("n_coalitions",)

    n_segments = 64
    n_coalitions: Annotated[int, Int(low=192, high=512, step=64, ge=4), "most coalitions, that is passes"] = 256

    def _plan(self, players: int, seed: int) -> CoalitionPlan:
        if self.n_coalitions < 2 * players + 2 and self.n_coalitions < 2**players:
            raise InvalidInputError(
                f"a fit to {players} groups needs at least {2 * players + 2} coalitions, got "
                f"n_coalitions={self.n_coalitions}; raise it, or make fewer groups with n_segments= or feature_mask="
            )
        return kernel_plan(players, self.n_coalitions, seed)


@EXPLAINERS.register("permutation_shapley")
class PermutationShapley(Shapley):
    """Shapley values as the mean of what a group adds, over random orders and their reverses.

    Strumbelj and Kononenko 2010; antithetic orders: Mitchell et al. 2022, arXiv:2104.12199. `estimate` also gives
    standard errors, from the spread over the orders.

    >>> import torch
    >>> model, x = torch.nn.Linear(3, 2, bias=False), torch.rand(1, 3)
    >>> PermutationShapley(model).attribute(x, 0).allclose(x * model.weight[:1], atol=1e-6)
    True
    """

    PASSES = ("n_coalitions",)

    n_segments = 64
    n_coalitions: Annotated[int, Int(low=192, high=512, step=64, ge=2), "most coalitions, that is passes"] = 256

    def _plan(self, players: int, seed: int) -> CoalitionPlan:
        return permutation_plan(players, self.n_coalitions, seed)

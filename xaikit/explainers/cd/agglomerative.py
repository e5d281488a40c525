"""Agglomerative contextual decomposition: a hierarchy of groups for one image or sentence."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit import upward
from xaikit.core import Call, Float
from xaikit.core.errors import InvalidInputError, MissingDependencyError
from xaikit.core.results import Result
from xaikit.explainers.cd.decomposition import decompose_call
from xaikit.explainers.cd.explainer import ContextualDecomposition
from xaikit.explainers.cd.padding import without_padding
from xaikit.explainers.cd.splits import Split

Group = frozenset[int]


@dataclasses.dataclass(frozen=True)
class Join:
    """Groups that became one.

    Attributes:
        level: at which level, from 1 on.
        members: the groups, each as the features that it holds.
        score: of the joint group.
        interaction: the joint score minus the sum of the members' scores.
    """

    level: int
    members: tuple[Group, ...]
    score: float
    interaction: float


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Hierarchy(Result):
    """Groups of features, from many small ones to one.

    Attributes:
        ids: (levels, *shape), the group of each element at each level; level 0 is the feature mask.
        scores: (levels, *shape), the score of the group that each element belongs to.
        selected: (levels, *shape), whether the element is in a group at that level; at level 0 no element is.
        joins: what was joined, in order.
        target: the explained class.
    """

    ids: Tensor
    scores: Tensor
    selected: Tensor
    joins: tuple[Join, ...]
    target: int

    def __repr__(self) -> str:
        groups = [int(level.unique().numel()) for level in self.ids]
        shape = tuple(self.ids.shape[1:])
        return f"Hierarchy of {shape} for class {self.target}: {len(groups)} levels with {groups} groups"

    def plot(self, inputs: Any = None, **options: Any) -> Any:
        """A figure of the levels; see `xaikit.report.hierarchies.plot_hierarchy`.

        Args:
            inputs: the sample (1, ...), to be shown beside the levels.
            options: as `plot_hierarchy` takes them.

        Raises:
            MissingDependencyError: where matplotlib is absent.
        """
        try:
            report = upward.load("hierarchies")
        except ImportError as err:
            raise MissingDependencyError(f"figures need matplotlib: pip install 'xaikit[report]' ({err})") from err
        return report.plot_hierarchy(self, inputs, **options)


class AgglomerativeDecomposition(ContextualDecomposition):
    """A hierarchy of the groups that a model puts together (Singh et al. 2019, arXiv:1806.05337, algorithm 1).

    Features are the groups of the feature mask; CD(G) is the relevant part of the target's score with G as the relevant
    part of the input. Each level takes those of the remaining features whose priority reaches a percentile of all
    priorities. Taken features that touch form groups. The priority of a feature is |CD(feature)|; if it touches a group
    G, it is |CD(G and feature) - CD(G)|, and the largest of these if it touches several groups. The last level has one
    group.

    Two things differ from the published code. It lowers the percentile towards the end; here the percentile is
    constant. If all features are taken and some groups do not touch, we join the pair with the largest CD(A and B) -
    max(CD(A), CD(B)); the code does that after a number of levels.

    Its `attribute` is that of `ContextualDecomposition`. A hierarchy is no attribution, since each element belongs to a
    group at every level, so this class has no name in the registry of explainers.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    >>> image = torch.rand(1, 1, 4, 4)
    >>> hierarchy = AgglomerativeDecomposition(model, feature_mask="grid:n_patches=2").hierarchy(image, 1)
    >>> hierarchy.ids[-1].unique().numel()
    1
    """

    percentile: Annotated[float, Float(ge=0, lt=100), "a level takes the features at or above it, at least one"] = 90.0

    def hierarchy(self, inputs: Tensor, target: int) -> Hierarchy:
        """The hierarchy for one sample.

        Args:
            inputs: an image or token ids, (1, ...).
            target: the class that is explained.

        Raises:
            InvalidInputError: for several samples or several inputs.
        """
        if not isinstance(inputs, Tensor) or len(inputs) != 1:
            shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise InvalidInputError(f"a hierarchy explains one sample, a tensor (1, ...), got {shape}")
        return self._in_call(lambda call: self._build(call, target), inputs, target)

    def _build(self, call: Call, target: int) -> Hierarchy:
        ids = self.feature_mask.of(call.inputs, call.tokens)[0][0]
        score_of: dict[Group, float] = {}

        def score(groups: Iterable[Group]) -> list[float]:
            asked_groups = list(groups)
            new = [group for group in dict.fromkeys(asked_groups) if group not in score_of]
            if new:
                masks = torch.stack([torch.isin(ids, torch.tensor(sorted(group), device=ids.device)) for group in new])
                splits = without_padding([Split.of_masks(masks.unsqueeze(1), call.inputs[0])], call)
                decomposition = decompose_call(call, splits, self._context(), max_rows=self.max_rows, output=Call.score)
                score_of.update(zip(new, decomposition.relevant[:, 0].tolist(), strict=True))
            return [score_of[group] for group in asked_groups]

        features = ids.unique().tolist()
        touching = adjacent(ids)
        groups: list[Group] = [frozenset([feature]) for feature in features]
        priority = dict(zip(features, map(abs, score(groups)), strict=True))
        selected_features: set[int] = set()
        joins: list[Join] = []
        levels = [_maps(ids, groups, score(groups), selected_features)]
        while len(groups) > 1:
            if priority:
                chosen = _at_or_above(priority, self.percentile)
                selected_features |= chosen
                priority = {feature: value for feature, value in priority.items() if feature not in chosen}
            else:
                a, b = _closest(groups, score)
                touching |= {(min(a), min(b))}
            before, groups = groups, connected(features, selected_features, touching)
            for group in groups:
                members = tuple(old for old in before if old < group)
                if members:
                    joint = score([group])[0]
                    joins.append(Join(len(levels), members, joint, joint - sum(score(members))))
            levels.append(_maps(ids, groups, score(groups), selected_features))
            priority |= _gains(groups, priority, selected_features, touching, score)
        ids_of, scores, selected = (torch.stack(values) for values in zip(*levels, strict=True))
        return Hierarchy(ids_of, scores, selected, tuple(joins), target)


Score = Callable[[Iterable[Group]], list[float]]


def _at_or_above(priority: dict[int, float], percentile: float) -> set[int]:
    """The features whose priority reaches the percentile."""
    threshold = torch.tensor(list(priority.values()), dtype=torch.float64, device="cpu").quantile(
        percentile / 100, interpolation="higher"
    )
    return {feature for feature, value in priority.items() if value >= threshold}


def _gains(
    groups: list[Group], candidates: Iterable[int], selected: set[int], touching: set[tuple[int, int]], score: Score
) -> dict[int, float]:
    """For each feature left that touches a group: the largest |CD(group and feature) - CD(group)|."""
    neighbours = touching | {(b, a) for a, b in touching}
    pairs = [
        (feature, group)
        for group in groups
        if group <= selected
        for feature in sorted({b for a, b in neighbours if a in group} & set(candidates))
    ]
    joint, alone = score(group | {feature} for feature, group in pairs), score(group for _, group in pairs)
    gains: dict[int, float] = {}
    for (feature, _), together, part in zip(pairs, joint, alone, strict=True):
        gains[feature] = max(gains.get(feature, 0.0), abs(together - part))
    return gains


def _closest(groups: list[Group], score: Score) -> tuple[Group, Group]:
    """The pair of groups that gains most by being joined."""
    pairs = list(itertools.combinations(groups, 2))
    joint = score(a | b for a, b in pairs)
    gains = [together - max(score(pair)) for pair, together in zip(pairs, joint, strict=True)]
    return pairs[gains.index(max(gains))]


def connected(features: list[int], selected: set[int], touching: set[tuple[int, int]]) -> list[Group]:
    """The groups of taken features that touch; any other feature is a group of its own."""
    home = {feature: frozenset([feature]) for feature in features}
    for a, b in sorted(touching):
        if a in selected and b in selected and home[a] != home[b]:
            joint = home[a] | home[b]
            home |= dict.fromkeys(joint, joint)
    return list(dict.fromkeys(home.values()))


def adjacent(ids: Tensor) -> set[tuple[int, int]]:
    """Pairs of groups with neighbouring elements along some dimension."""
    touching: set[tuple[int, int]] = set()
    for dim in range(ids.dim()):
        first, second = ids.narrow(dim, 0, ids.shape[dim] - 1), ids.narrow(dim, 1, ids.shape[dim] - 1)
        different = first != second
        pairs = torch.stack([first[different], second[different]], 1).unique(dim=0).tolist()
        touching |= {(min(a, b), max(a, b)) for a, b in pairs}
    return touching


def _maps(ids: Tensor, groups: list[Group], scores: list[float], selected: set[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Number and score of the group of each element, and whether it has been taken."""
    numbers, values = torch.empty_like(ids), torch.empty(ids.shape, device=ids.device)
    for i, (group, score) in enumerate(zip(groups, scores, strict=True)):
        inside = torch.isin(ids, torch.tensor(sorted(group), device=ids.device))
        numbers[inside], values[inside] = i, score
    return numbers, values, torch.isin(ids, torch.tensor(sorted(selected), dtype=ids.dtype, device=ids.device))

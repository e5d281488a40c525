"""Agglomerative contextual decomposition: a hierarchy of groups for one image or sentence."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit.core import Call, Float
from xaikit.core.errors import InvalidInputError, MissingDependencyError
from xaikit.core.structure import Tensors
from xaikit.explainers.cd.decomposition import decompose_call
from xaikit.explainers.cd.explainer import ContextualDecomposition
from xaikit.explainers.cd.splits import Split

Group = frozenset[int]


@dataclasses.dataclass(frozen=True)
class Join:
    """Two groups that became one.

    Attributes:
        level: at which level, from 1 on.
        members: the two groups, each as the ids of the groups of level 0 that it holds.
        score: of the joint group.
        interaction: what the joint score exceeds the sum of the two scores by.
    """

    level: int
    members: tuple[Group, Group]
    score: float
    interaction: float


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """Groups of features, from many small ones to one.

    Attributes:
        ids: (levels, *shape), the group of each element at each level; level 0 is the feature mask.
        scores: (levels, *shape), the score of the group that each element belongs to.
        joins: what was joined, in order.
        target: the explained class.
    """

    ids: Tensor
    scores: Tensor
    joins: tuple[Join, ...]
    target: int

    def plot(self, inputs: Any = None, **options: Any) -> Any:
        """A figure of the levels; see `xaikit.report.hierarchies.plot_hierarchy`.

        Raises:
            MissingDependencyError: where matplotlib is absent.
        """
        from importlib import import_module

        try:
            report = import_module("xaikit.report.hierarchies")
        except ImportError as err:
            raise MissingDependencyError(f"figures need matplotlib: pip install 'xaikit[report]' ({err})") from err
        return report.plot_hierarchy(self, inputs, **options)


class AgglomerativeDecomposition(ContextualDecomposition):
    """A hierarchy of the groups that a model puts together (Singh et al. 2019, arXiv:1806.05337).

    Level 0 holds the groups of the feature mask. From one level to the next the adjacent pairs A, B that interact most,
    by |score(A and B) - score(A) - score(B)|, are joined, until one group is left. A score is the relevant part of the
    target's score in the contextual decomposition with the group as the relevant part of the input.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    >>> image = torch.rand(1, 1, 4, 4)
    >>> hierarchy = AgglomerativeDecomposition(model, feature_mask="grid:n_patches=2").hierarchy(image, 1)
    >>> len(hierarchy.joins)
    3
    """

    joined: Annotated[float, Float(gt=0, le=1), "share of the adjacent pairs that a level joins, at least one"] = 0.2

    def hierarchy(self, inputs: Tensor, target: int) -> Hierarchy:
        """The hierarchy for one sample (1, ...), an image or token ids.

        Raises:
            InvalidInputError: for several samples or several inputs.
        """
        if not isinstance(inputs, Tensor) or len(inputs) != 1:
            shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise InvalidInputError(f"a hierarchy explains one sample, a tensor (1, ...), got {shape}")
        found: list[Hierarchy] = []

        def method(call: Call) -> tuple[Tensors, ...]:
            found.append(self._build(call, target))
            return ()

        self._apply(method, inputs, target, create_graph=False, seed=0)
        return found[0]

    def _build(self, call: Call, target: int) -> Hierarchy:
        ids = self.feature_mask.of(call.inputs)[0][0]
        known: dict[Group, float] = {}

        def score(groups: list[Group]) -> list[float]:
            new = [group for group in dict.fromkeys(groups) if group not in known]
            if new:
                masks = torch.stack([torch.isin(ids, torch.tensor(sorted(group), device=ids.device)) for group in new])
                found = decompose_call(
                    call,
                    [Split.of_masks(masks.unsqueeze(1), call.inputs[0])],
                    self._context(),
                    max_rows=self.max_rows,
                    output=lambda part, output: part.score(output),
                )
                known.update(zip(new, found.relevant[:, 0].tolist(), strict=True))
            return [known[group] for group in groups]

        groups: list[Group] = [frozenset([number]) for number in ids.unique().tolist()]
        edges = adjacent(ids)
        joins: list[Join] = []
        levels = [(list(groups), score(groups))]
        while len(groups) > 1:
            chosen = self._strongest(groups, edges, score)
            for (a, b), interaction in chosen:
                joins.append(Join(len(levels), (a, b), known[a | b], interaction))
                groups = [group for group in groups if group not in (a, b)] + [a | b]
            levels.append((list(groups), score(groups)))
        maps = [_maps(ids, *level) for level in levels]
        return Hierarchy(torch.stack([m[0] for m in maps]), torch.stack([m[1] for m in maps]), tuple(joins), target)

    def _strongest(
        self, groups: list[Group], edges: set[tuple[int, int]], score: Any
    ) -> list[tuple[tuple[Group, Group], float]]:
        """The adjacent pairs that interact most, no group in two of them; any pair where no two groups touch."""
        home = {number: group for group in groups for number in group}
        pairs = list(dict.fromkeys((home[a], home[b]) for a, b in sorted(edges) if home[a] != home[b]))
        pairs = list({frozenset(pair): pair for pair in pairs}.values()) or [(groups[0], groups[1])]
        joint = score([a | b for a, b in pairs])
        apart = [sum(score([a, b])) for a, b in pairs]
        strengths = [whole - parts for whole, parts in zip(joint, apart, strict=True)]
        order = sorted(range(len(pairs)), key=lambda i: -abs(strengths[i]))
        chosen: list[tuple[tuple[Group, Group], float]] = []
        taken: set[Group] = set()
        for i in order[: max(1, round(self.joined * len(pairs)))]:
            if not taken & set(pairs[i]):
                chosen.append((pairs[i], strengths[i]))
                taken |= set(pairs[i])
        return chosen


def adjacent(ids: Tensor) -> set[tuple[int, int]]:
    """Pairs of groups with neighbouring elements along some dimension."""
    found: set[tuple[int, int]] = set()
    for dim in range(ids.dim()):
        first, second = ids.narrow(dim, 0, ids.shape[dim] - 1), ids.narrow(dim, 1, ids.shape[dim] - 1)
        different = first != second
        pairs = torch.stack([first[different], second[different]], 1).unique(dim=0).tolist()
        found |= {(min(a, b), max(a, b)) for a, b in pairs}
    return found


def _maps(ids: Tensor, groups: list[Group], scores: list[float]) -> tuple[Tensor, Tensor]:
    """Number and score of the group of each element."""
    numbers, values = torch.empty_like(ids), torch.empty(ids.shape, device=ids.device)
    for i, (group, score) in enumerate(zip(groups, scores, strict=True)):
        inside = torch.isin(ids, torch.tensor(sorted(group), device=ids.device))
        numbers[inside], values[inside] = i, score
    return numbers, values

"""Interactions: for each sample a matrix over pairs of groups of features."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit import upward
from xaikit.core.errors import InvalidInputError
from xaikit.core.pandas_import import import_pandas
from xaikit.core.params import Int
from xaikit.core.results import Result


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Interactions(Result):
    """How much of a score each pair of groups contributes together.

    Attributes:
        values: symmetric, (N, n, n). The sum of a row is the attribution of its group, that of all entries
            S(x) - S(baseline) - gap. An entry beside the diagonal is half of what the pair does together.
        names: of the groups.
        method: how they were computed.
        gap: what the entries miss of S(x) - S(baseline), (N,).
    """

    values: Tensor
    names: tuple[str, ...]
    method: str
    gap: Tensor

    @property
    def attributions(self) -> Tensor:
        """The sums of the rows, (N, n): integrated gradients, or Shapley values, of the groups."""
        return self.values.sum(2)

    def strongest(self, sample: int = 0, count: int = 10) -> list[tuple[str, str, float]]:
        """The pairs of different groups that do most together, each once: both names and what both entries sum to.

        Args:
            sample: which one.
            count: how many pairs.

        Raises:
            InvalidInputError: for a sample that there is not.
        """
        matrix = self._matrix(sample)
        rows, columns = torch.triu_indices(len(matrix), len(matrix), 1)
        pairs = 2 * matrix[rows, columns]
        order = pairs.abs().argsort(descending=True, stable=True)[: max(0, count)].tolist()
        return [(self.names[int(rows[k])], self.names[int(columns[k])], float(pairs[k])) for k in order]

    def to_pandas(self, sample: int = 0) -> Any:
        """The matrix of a sample as a table with the names on both sides.

        Args:
            sample: which one.

        Raises:
            InvalidInputError: for a sample that there is not.
            MissingDependencyError: without pandas.
        """
        matrix = self._matrix(sample).tolist()
        return import_pandas().DataFrame(matrix, index=list(self.names), columns=list(self.names))

    def plot(self, sample: int = 0) -> Any:
        """The matrix of a sample as a matplotlib figure: red counts for the score, blue against it.

        Args:
            sample: which one.

        Raises:
            InvalidInputError: for a sample that there is not.
        """
        self._matrix(sample)
        return upward.load("interaction_figures").interactions_figure(self, sample)

    def _matrix(self, sample: int) -> Tensor:
        return self.values[Int(ge=0, le=len(self.values) - 1).check(sample, "sample")].double().cpu()

    def __repr__(self) -> str:
        samples, groups, _ = self.values.shape
        return f"Interactions({self.method}: {samples} samples, {groups} groups)"


def group_names(names: Sequence[str] | None, count: int, *, singles: bool) -> tuple[str, ...]:
    """The names of the groups, or numbers.

    Args:
        names: as the user passed them.
        count: of groups.
        singles: whether each group is one feature.

    Raises:
        InvalidInputError: for another number of names.
    """
    if names is not None and len(names) != count:
        raise InvalidInputError(f"names must name {count} groups, got {len(names)}")
    word = "feature" if singles else "group"
    return tuple(f"{word} {k}" for k in range(count)) if names is None else tuple(map(str, names))

"""EachColumn of tables, exchanged between rows: one of them, or those that belong together."""

from __future__ import annotations

import functools
import itertools
import os
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.core.registries import FACTORS
from xaikit.factors.base import ExchangeContext, Factor, Family
from xaikit.factors.facts import TABLE, DataFacts
from xaikit.factors.words import names_setting

JOINTS = "=_:. -"  # what stands between a variable and its value in the name of a one-hot column


@FACTORS.register("column")
class Column(Factor):
    """One or more columns, together.

    A name also means the columns that begin with it: "race" those called "race=white" and "race_black".

    >>> Column(names="race").title
    'column race'
    """

    KINDS: ClassVar[tuple[str, ...]] = (TABLE,)

    names: Annotated[Any, names_setting, "names of columns, or what the names of several begin with"] = ()
    indices: Annotated[tuple[int, ...], "numbers of columns, from 0, where the names are unknown"] = ()

    def _check_settings(self) -> None:
        if not self.names and not self.indices:
            raise InvalidInputError("the factor 'column' needs some columns, such as column:names=age")

    @property
    def title(self) -> str:
        """Such as "column age", or "columns 3, 4"."""
        listed = [*self.names, *map(str, self.indices)]
        return f"column{'s' if len(listed) > 1 else ''} {', '.join(listed)}"

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        chosen = torch.tensor(_chosen(self.names, self.indices, context.facts.columns, x.shape[1]), device="cpu")
        return torch.where(chosen.to(x.device), donors, x)


@functools.lru_cache(maxsize=64)
def _chosen(names: tuple[str, ...], indices: tuple[int, ...], columns: tuple[str, ...], width: int) -> list[bool]:
    """Of each column of a table whether it is exchanged; a training asks this in every step."""
    chosen = [False] * width
    for index in (*indices, *(i for name in names for i in columns_of(name, columns))):
        if not -width <= index < width:
            raise InvalidInputError(f"there is no column {index} in a table of {width}")
        chosen[index] = True
    return chosen


def columns_of(name: str, columns: tuple[str, ...]) -> list[int]:
    """The numbers of the columns of a name: its own, or those that begin with it.

    Args:
        name: of a column, or of a variable with several.
        columns: the names of all.

    Raises:
        InvalidInputError: where the names are unknown.
        UnknownNameError: for a name that no column has.
    """
    if not columns:
        raise InvalidInputError(
            f"the column {name!r} needs the names of the columns, which are unknown; pass facts={{'columns': ...}}, or "
            "numbers"
        )
    exact = [i for i, column in enumerate(columns) if column == name]
    beginnings = tuple(name + joint for joint in JOINTS)
    begun = [i for i, column in enumerate(columns) if column.startswith(beginnings)]
    if not exact and not begun:
        raise UnknownNameError(f"there is no column {name!r}{near_names(name, columns)}")
    return exact or begun


@FACTORS.register("columns")
class EachColumn(Family):
    """Each column by itself; those that are one variable together.

    Neighbours whose names agree before "=" are the values of one variable; where no name has "=", neighbours that hold
    0 and 1, a single 1 in every row.
    """

    KINDS: ClassVar[tuple[str, ...]] = (TABLE,)

    def members(self, x: Tensor, y: Tensor, facts: DataFacts) -> tuple[Factor, ...]:  # noqa: ARG002
        """A `Column` for each variable.

        Args:
            x: samples of all classes.
            y: their classes.
            facts: what is known of the data.
        """
        return tuple(self._member(group, facts) for group in variables(x, facts.columns))

    def _member(self, group: list[int], facts: DataFacts) -> Factor:
        names = [facts.columns[i] for i in group] if facts.columns else []
        shared = os.path.commonprefix(names).rstrip(JOINTS)
        if len(group) > 1 and shared and columns_of(shared, facts.columns) == group:
            return Column(names=(shared,), nature=self.nature)
        return Column(names=names, nature=self.nature) if names else Column(indices=tuple(group), nature=self.nature)


def variables(x: Tensor, names: tuple[str, ...] = ()) -> list[list[int]]:
    """The columns of a table, those of one variable together.

    Args:
        x: rows (N, F).
        names: of the columns; empty where unknown.
    """
    if any("=" in name for name in names):
        heads = [name.partition("=")[0] if "=" in name else f"{name}={i}" for i, name in enumerate(names)]
        return [[i for i, _ in run] for _, run in itertools.groupby(enumerate(heads), key=lambda item: item[1])]
    binary = ((x == 0) | (x == 1)).all(0).tolist()
    groups: list[list[int]] = []
    begin = 0
    while begin < x.shape[1]:
        end = _end_of_one_hot(x, begin, binary)
        groups.append(list(range(begin, end)))
        begin = end
    return groups


def _end_of_one_hot(x: Tensor, begin: int, binary: list[bool]) -> int:
    """Where the variable that begins at a column ends; one of several columns holds a single 1 in each row."""
    total, end = torch.zeros_like(x[:, 0]), begin
    while end < x.shape[1] and binary[end] and bool((total + x[:, end] <= 1).all()):
        total = total + x[:, end]
        end += 1
    return end if end - begin > 1 and bool((total == 1).all()) else begin + 1

"""Encoding the columns of a table as a model's inputs: categories one-hot, numbers standardised; saved as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import statistics
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.core.files import check_is_file, write_whole
from xaikit.files.tables import MISSING, TextTable

MOST_CATEGORIES = 1000  # of a column: with more, the column probably holds names or row numbers
VERSION = 1


@dataclasses.dataclass(frozen=True)
class ColumnEncoding:
    """One column.

    Attributes:
        name: of the column.
        categories: each becomes a column of 0 and 1; empty for a column of numbers.
        mean: subtracted from each number.
        std: each number is divided by it after that.
    """

    name: str
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def features(self) -> list[str]:
        """Names of the numbers that the model gets: the column's, or one for each category."""
        return [f"{self.name}={c}" for c in self.categories] or [self.name]

    def encode(self, table: TextTable) -> list[list[float]]:
        """The numbers of each row, one list for each feature.

        Raises:
            InvalidInputError: for a missing value.
        """
        if not self.categories:
            return [[(value - self.mean) / self.std for value in table.numbers(self.name)]]
        texts = categories_of(table, self.name)
        return [[float(text == category) for text in texts] for category in self.categories]

    def check(self, table: TextTable, fitted_on: str) -> None:
        """Refuse categories that the encoding does not have, all at once.

        Args:
            table: with this column.
            fitted_on: where the encoding's categories come from, for the message.

        Raises:
            UnknownNameError: which names the first row and counts the others.
        """
        if not self.categories:
            return
        texts = categories_of(table, self.name)
        unseen = [(text, line) for text, line in zip(texts, table.lines, strict=True) if text not in self.categories]
        if unseen:
            text, line = unseen[0]
            others = f" ({len(unseen)} such rows)" if len(unseen) > 1 else ""
            origin = f", which are those of {fitted_on}" if fitted_on else ""
            raise UnknownNameError(
                f"{table.path}, row {line}, column {self.name!r}: {text!r} is none of the encoding's categories"
                f"{origin}{near_names(text, self.categories)}{others}"
            )


@dataclasses.dataclass(frozen=True)
class TableEncoding:
    """The columns that a model gets, in their order.

    Attributes:
        columns: how each becomes numbers.
        fitted_on: the rows whose categories, means and standard deviations these are: "the 600 rows of train.csv".
    """

    columns: tuple[ColumnEncoding, ...]
    fitted_on: str = ""

    @property
    def features(self) -> list[str]:
        """Names of the numbers that the model gets."""
        return [feature for column in self.columns for feature in column.features]

    def encode(self, table: TextTable) -> list[list[float]]:
        """The numbers of each row, one list for each feature.

        Args:
            table: with these columns.

        Raises:
            InvalidInputError: for a value that is missing, no number, or no known category.
            UnknownNameError: for a column that is not there.
        """
        for column in self.columns:
            column.check(table, self.fitted_on)
        return [values for column in self.columns for values in column.encode(table)]

    def save(self, path: Path) -> Path:
        """Write the encoding as JSON.

        Args:
            path: of the file.
        """
        columns = [dataclasses.asdict(column) for column in self.columns]
        content = {"version": VERSION, "fitted_on": self.fitted_on, "columns": columns}
        return write_whole(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def fit_encoding(
    table: TextTable, columns: Sequence[str], *, one_hot: Sequence[str] = (), standardise: bool = False
) -> TableEncoding:
    """The encoding of a table by its own values.

    Args:
        table: whose categories, means and standard deviations count.
        columns: that the model gets, in order.
        one_hot: those of categories, which are sorted alphabetically.
        standardise: columns of numbers get the mean 0 and the standard deviation 1; categories stay 0 and 1.

    Raises:
        InvalidInputError: for values that are missing or no numbers, or a column with too many categories.
        UnknownNameError: for a column of categories that is not among `columns`.
    """
    stranger = next((name for name in one_hot if name not in columns), None)
    if stranger is not None:
        raise UnknownNameError(f"--one-hot: the model gets no column {stranger!r}{near_names(stranger, columns)}")
    return TableEncoding(
        tuple(_categories(table, name) if name in one_hot else _numbers(table, name, standardise) for name in columns),
        f"the {len(table.rows)} rows of {table.path}",
    )


def load_encoding(path: Path) -> TableEncoding:
    """The encoding in a file that `TableEncoding.save` wrote.

    Args:
        path: of the file.

    Raises:
        InvalidInputError: for any other file.
    """
    check_is_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
        columns = tuple(_column(item) for item in content["columns"])
    except (ValueError, KeyError, TypeError, RecursionError, AttributeError) as err:
        reason = f"{type(err).__name__}: {' '.join(str(err).split())[:80]}"
        raise InvalidInputError(f"{path} is not what --encoding writes ({reason})") from None
    if version != VERSION or not columns:
        raise InvalidInputError(f"{path} is an encoding of version {version}, and this xaikit reads version {VERSION}")
    return TableEncoding(columns, str(content.get("fitted_on", "")))


def _column(item: Any) -> ColumnEncoding:
    column = ColumnEncoding(
        str(item["name"]), tuple(str(c) for c in item["categories"]), float(item["mean"]), float(item["std"])
    )
    if not (math.isfinite(column.mean) and math.isfinite(column.std) and column.std > 0):
        raise ValueError(f"mean and std of {column.name!r}")  # noqa: TRY004
    return column


def categories_of(table: TextTable, name: str) -> list[str]:
    """The category of each row, without blanks around it.

    Args:
        table: with this column.
        name: of the column.

    Raises:
        InvalidInputError: where one is missing.
        UnknownNameError: for a column that is not there.
    """
    texts = [text.strip() for text in table.column(name)]
    table.check_missing(name, texts, MISSING - {"none", "-"})
    return texts


def _categories(table: TextTable, name: str) -> ColumnEncoding:
    categories = sorted(set(categories_of(table, name)))
    if len(categories) > MOST_CATEGORIES:
        raise InvalidInputError(
            f"{table.path}: the column {name!r} has {len(categories)} categories, more than {MOST_CATEGORIES}; leave "
            "it out with --columns"
        )
    return ColumnEncoding(name, tuple(categories))


def _numbers(table: TextTable, name: str, standardise: bool) -> ColumnEncoding:
    if not standardise:
        return ColumnEncoding(name)
    values = table.numbers(name)
    std = statistics.pstdev(values)
    if std == 0:
        warnings.warn(f"{table.path}: the column {name!r} has one value only; it is centred, not scaled", stacklevel=3)
    return ColumnEncoding(name, (), statistics.fmean(values), std or 1.0)

"""Time series in long form: a table with a row for each point of each series."""

from __future__ import annotations

import dataclasses
import datetime
import statistics
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from xaikit.core.errors import InvalidInputError
from xaikit.files.tables import TextTable


@dataclasses.dataclass(frozen=True)
class LongSeries:
    """Series of one length.

    Attributes:
        names: of the series, in the order in which they appear.
        values: for each series, for each channel, the values in the order of time.
        rows: for each series, the numbers of its rows in the table.
    """

    names: list[str]
    values: list[list[list[float]]]
    rows: list[list[int]]


def read_series(table: TextTable, name_column: str, time_column: str, channels: Sequence[str]) -> LongSeries:
    """The series of a table in long form.

    Args:
        table: with a row for each point.
        name_column: says which series a row belongs to.
        time_column: numbers, or dates as 2026-01-31 or 2026-01-31T12:00; only their order counts.
        channels: the columns of values.

    Raises:
        InvalidInputError: for series of different lengths, two points at one time, values that are missing.
        UnknownNameError: for a column that is not there.
    """
    if not channels:
        raise InvalidInputError(f"{table.path} has no column of values beside {name_column!r} and {time_column!r}")
    rows: dict[str, list[int]] = {}
    names = [text.strip() for text in table.column(name_column)]
    table.check_missing(name_column, names)
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    times = _times(table, time_column)
    for name, points in rows.items():
        points.sort(key=lambda i: times[i])
        twice = next((j for i, j in zip(points, points[1:], strict=False) if times[i] == times[j]), None)
        if twice is not None:
            raise InvalidInputError(
                f"{table.path}, row {table.lines[twice]}: the series {name!r} has two points at the time "
                f"{table.column(time_column)[twice]!r}"
            )
    lengths = {len(points): name for name, points in rows.items()}
    if len(lengths) > 1:
        (n, name), (m, other) = list(lengths.items())[:2]
        raise InvalidInputError(
            f"{table.path}: the series {name!r} has {n} points and {other!r} has {m}; a model's input has one length, "
            "so cut them or fill them up in the file"
        )
    _warn_of_other_steps(table.path, {name: [times[i] for i in points] for name, points in rows.items()})
    columns = [table.numbers(channel) for channel in channels]
    values = [[[column[i] for i in points] for column in columns] for points in rows.values()]
    return LongSeries(list(rows), values, list(rows.values()))


def _warn_of_other_steps(path: Path, times: Mapping[str, Sequence[float]]) -> None:
    """Tell where one series goes on at other times than the first: its points are taken as if at the same ones."""
    first, *others = times.items()
    steps = [b - a for a, b in zip(first[1], first[1][1:], strict=False)]
    if not steps:
        return
    most = statistics.median(steps) / 2
    for name, points in others:
        if any(abs((b - points[0]) - (a - first[1][0])) > most for a, b in zip(first[1], points, strict=True)):
            warnings.warn(
                f"{path}: the series {first[0]!r} and {name!r} have their points at other times since the first; only "
                "the order of the points counts",
                stacklevel=3,
            )
            return


def _times(table: TextTable, name: str) -> list[float]:
    texts = [text.strip() for text in table.column(name)]
    table.check_missing(name, texts)
    times = []
    for text, line in zip(texts, table.lines, strict=True):
        try:
            times.append(datetime.datetime.fromisoformat(text) if _is_date(text) else float(text))
        except ValueError:
            raise InvalidInputError(
                f"{table.path}, row {line}, column {name!r}: {text!r} is no time; use numbers, or dates as 2026-01-31"
            ) from None
    kinds = {type(time) for time in times}
    zones = {time.tzinfo is None for time in times if isinstance(time, datetime.datetime)}
    if len(kinds) > 1 or len(zones) > 1:
        raise InvalidInputError(f"{table.path}, column {name!r} mixes several kinds of times; use one")
    # Without a zone, times are counted as they stand: this machine's summer time would move some onto others.
    epoch = datetime.datetime(1970, 1, 1)  # noqa: DTZ001
    zoned = epoch.replace(tzinfo=datetime.UTC)
    return [
        (t - (epoch if t.tzinfo is None else zoned)).total_seconds() if isinstance(t, datetime.datetime) else t
        for t in times
    ]


def _is_date(text: str) -> bool:
    return text[:4].isdecimal() and text[4:5] == "-"

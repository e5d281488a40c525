"""Catalogue: the rows of a run in an SQLite file, so that filters and orders need no list of samples in memory."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from xaikit.core.errors import InvalidInputError
from xaikit.runs.single_rows import SingleRows

VERSION = 3
DISK = ("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_BUSY")  # errors of the disk
COLUMNS = (
    "position",
    "shard",
    "row",
    "sample",
    "name",
    "fingerprint",
    "folder",
    "label",
    "predicted",
    "target",
    "score",
    "confidence",
    "gap",
)
COMPUTED = ("region", "disagreement", "after")  # filled when they are asked for
# Orders of the gallery: the column, and whether large values come first.
ORDERS = {
    "position": ("position", False),
    "wrong": ("predicted = label", False),
    "score": ("score", True),
    "-score": ("score", False),
    "-confidence": ("confidence", False),
    "confidence": ("confidence", True),
    "gap": ("abs(gap)", True),
    "region": ("region", True),
    "-region": ("region", False),
    "disagreement": ("disagreement", True),
    "name": ("name", False),
}
TABLE = f"""
CREATE TABLE IF NOT EXISTS samples (
  position INTEGER PRIMARY KEY, shard INTEGER, row INTEGER, sample INTEGER, name TEXT, fingerprint TEXT, folder TEXT,
  label INTEGER, predicted INTEGER, target INTEGER, score REAL, confidence REAL, gap REAL,
  region REAL, disagreement REAL, after INTEGER);
CREATE TABLE IF NOT EXISTS members (grp TEXT, sample INTEGER, PRIMARY KEY (grp, sample)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shards (number INTEGER PRIMARY KEY, bytes INTEGER, written INTEGER);
CREATE UNIQUE INDEX IF NOT EXISTS by_sample ON samples (sample);
CREATE INDEX IF NOT EXISTS by_name ON samples (name);
CREATE INDEX IF NOT EXISTS by_label ON samples (label, predicted);
CREATE INDEX IF NOT EXISTS by_score ON samples (score);
PRAGMA user_version = {VERSION};
"""


class Catalogue:
    """The rows of a run, indexed shard by shard.

    Args:
        run: whose rows they are.
        path: of the SQLite file; it is made anew where it does not fit the run.
    """

    def __init__(self, run: SingleRows, path: Path) -> None:
        self.run, self.path = run, path
        self.n_shards = len(run.numbers())
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self._fits():
            for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
                file.unlink(missing_ok=True)
        with self.connection() as base:
            base.execute("PRAGMA journal_mode = WAL")  # readers and the writer do not wait for each other
            base.executescript(TABLE)

    @contextlib.contextmanager
    def connection(self) -> Iterator[sqlite3.Connection]:
        """A connection for a block; what is written in the block is kept together.

        Raises:
            OSError: when the disk refuses.
        """
        try:
            with contextlib.closing(sqlite3.connect(self.path, timeout=30)) as base:
                base.row_factory = sqlite3.Row
                base.execute("PRAGMA synchronous = NORMAL")  # the index can be made again
                with base:
                    yield base
        except sqlite3.OperationalError as err:
            if str(getattr(err, "sqlite_errorname", "")).startswith(DISK):
                raise OSError(errno.EIO, str(err), str(self.path)) from err
            raise

    def fill(self, stop: threading.Event | None = None) -> None:
        """Index the shards that are not yet there, in their order.

        Args:
            stop: ends it when set.

        Raises:
            InvalidInputError: for a damaged shard.
        """
        for number in self.missing():
            if stop is not None and stop.is_set():
                return
            self.add(number)

    def missing(self) -> list[int]:
        """The shards that are not indexed."""
        numbers = self.run.numbers()
        self.n_shards = len(numbers)
        with self.connection() as base:
            indexed = {row[0] for row in base.execute("SELECT number FROM shards")}
        return [number for number in numbers if number not in indexed]

    def add(self, number: int) -> None:
        """Index one shard.

        Args:
            number: of the shard.
        """
        rows, info = self.run.rows(number), self.run.path(number).stat()
        with self.connection() as base:
            start = base.execute("SELECT coalesce(max(position) + 1, 0) FROM samples").fetchone()[0]
            values = [
                (
                    start + i, number, i, row["index"], row["name"] or "", row["fingerprint"] or "",
                    _folder(row["name"] or ""), row["label"], row["predicted"], row["target"], row["score"],
                    row["confidence"], row["gap"],
                )
                for i, row in enumerate(rows)
            ]  # fmt: skip
            marks = ", ".join("?" * len(COLUMNS))
            base.executemany(f"INSERT OR REPLACE INTO samples ({', '.join(COLUMNS)}) VALUES ({marks})", values)  # noqa: S608
            base.execute("INSERT OR REPLACE INTO shards VALUES (?, ?, ?)", (number, info.st_size, info.st_mtime_ns))

    @property
    def progress(self) -> float:
        """The share of the shards that is indexed."""
        with self.connection() as base:
            count: int = base.execute("SELECT count(*) FROM shards").fetchone()[0]
        return count / self.n_shards if self.n_shards else 1.0

    def query(
        self, filters: Sequence[tuple[str, str, Any]] = (), order: str = "position", start: int = 0, count: int = 50
    ) -> tuple[int, list[dict[str, Any]]]:
        """How many samples pass the filters, and some of them.

        Args:
            filters: column, comparison and value of each.
            order: a key of `ORDERS`.
            start: the first of those that are returned.
            count: how many are returned at most.

        Raises:
            InvalidInputError: for an order or a column that there is not.
        """
        if order not in ORDERS:
            raise InvalidInputError(f"samples are ordered by one of {', '.join(ORDERS)}, got {order!r}")
        where, values = _where(filters)
        column, falling = ORDERS[order]
        by = f"{column} IS NULL, {column} {'DESC' if falling else 'ASC'}, position"
        by = "position" if order == "position" else by
        with self.connection() as base:
            total: int = base.execute(f"SELECT count(*) FROM samples{where}", values).fetchone()[0]  # noqa: S608
            rows = base.execute(
                f"SELECT * FROM samples{where} ORDER BY {by} LIMIT ? OFFSET ?",  # noqa: S608
                (*values, count, start),
            ).fetchall()
        return total, [dict(row) for row in rows]

    def spread(self, filters: Sequence[tuple[str, str, Any]], most: int) -> list[dict[str, Any]]:
        """Samples that pass the filters, evenly spread over them where there are more than are asked for.

        Args:
            filters: column, comparison and value of each.
            most: how many at most.
        """
        where, values = _where(filters)
        with self.connection() as base:
            every = base.execute(f"SELECT position FROM samples{where} ORDER BY position", values)  # noqa: S608
            total = base.execute(f"SELECT count(*) FROM samples{where}", values).fetchone()[0]  # noqa: S608
            step = max(1.0, total / most)
            chosen = {int(i * step) for i in range(min(most, total))}
            positions = [row[0] for i, row in enumerate(every) if i in chosen]
        return [self.at(position) for position in positions]

    def at(self, position: int) -> dict[str, Any]:
        """The row at a position.

        Args:
            position: in the run.

        Raises:
            InvalidInputError: where there is none.
        """
        return self._one("position", position)

    def of_sample(self, sample: int) -> dict[str, Any] | None:
        """The row of a sample by its index in the data; None where the run does not have it.

        Args:
            sample: its index.
        """
        with self.connection() as base:
            row = base.execute("SELECT * FROM samples WHERE sample = ?", (sample,)).fetchone()
        return None if row is None else dict(row)

    def values_of(self, column: str, most: int = 500) -> list[Any]:
        """The different values of a column, the first ones where there are many.

        Args:
            column: label, predicted, target, folder.
            most: how many at most.
        """
        _check_column(column)
        with self.connection() as base:
            rows = base.execute(
                f"SELECT DISTINCT {column} FROM samples WHERE {column} IS NOT NULL ORDER BY 1 LIMIT ?",  # noqa: S608
                (most,),
            ).fetchall()
        return [row[0] for row in rows]

    def has(self, column: str) -> bool:
        """Whether any sample has a value in a column.

        Args:
            column: of the table.
        """
        _check_column(column)
        with self.connection() as base:
            return base.execute(f"SELECT 1 FROM samples WHERE {column} IS NOT NULL LIMIT 1").fetchone() is not None  # noqa: S608

    def set_values(self, column: str, values: Sequence[tuple[Any, int]], key: str = "position") -> None:
        """Fill a computed column for some samples.

        Args:
            column: one of `COMPUTED`.
            values: the value and the position of each.
            key: "position", or "sample" for indices in the data.
        """
        if column not in COMPUTED or key not in ("position", "sample"):
            raise InvalidInputError(f"{column} is no column that is computed; these are {', '.join(COMPUTED)}")
        with self.connection() as base:
            base.executemany(f"UPDATE samples SET {column} = ? WHERE {key} = ?", values)  # noqa: S608

    def clear(self, column: str) -> None:
        """Empty a computed column.

        Args:
            column: one of `COMPUTED`.
        """
        _check_column(column)
        with self.connection() as base:
            base.execute(f"UPDATE samples SET {column} = NULL WHERE {column} IS NOT NULL")  # noqa: S608

    def note(self, name: str) -> str:
        """What was noted under a name; empty for nothing, as in an index that was made anew.

        Args:
            name: of the note.
        """
        with self.connection() as base:
            row = base.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return "" if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Keep a note with the index.

        Args:
            name: of the note.
            value: of it.
        """
        with self.connection() as base:
            base.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def _one(self, column: str, value: int) -> dict[str, Any]:
        with self.connection() as base:
            row = base.execute(f"SELECT * FROM samples WHERE {column} = ?", (value,)).fetchone()  # noqa: S608
        if row is None:
            raise InvalidInputError(f"the run has no sample at position {value} (or it is not indexed yet)")
        return dict(row)

    def _fits(self) -> bool:
        """Whether the file is an index of this version, and each shard in it is as it was."""
        if not self.path.is_file():
            return True
        try:
            base = sqlite3.connect(self.path)
            with contextlib.closing(base):
                if base.execute("PRAGMA user_version").fetchone()[0] != VERSION:
                    return False
                return all(_is_same(self.run.path(n), b, w) for n, b, w in base.execute("SELECT * FROM shards"))
        except sqlite3.DatabaseError:
            return False


def is_same_sample(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows of one number are of one sample, as far as they say.

    Args:
        row: of one catalogue.
        other: of another one.
    """
    key = next((k for k in ("fingerprint", "name") if row[k] and other[k]), None)
    return key is None or row[key] == other[key]


def _is_same(path: Path, size: int, written: int) -> bool:
    try:
        info = os.stat(path)
    except OSError:
        return False
    return info.st_size == size and info.st_mtime_ns == written


def _folder(name: str) -> str:
    """The first folder of a sample's name, such as train/cat/1.jpg: its split, or its class."""
    parts = PurePosixPath(name).parts
    return parts[0] if len(parts) > 1 else ""


def _check_column(column: str) -> None:
    if column not in (*COLUMNS, *COMPUTED):
        raise InvalidInputError(f"samples have no column {column!r}")


COMPARISONS = {
    "is": "{} = ?",
    "contains": "instr(lower({}), lower(?)) > 0",
    "in group": "{} IN (SELECT sample FROM members WHERE grp = ?)",
    "right": "predicted = label",
    "wrong": "predicted <> label",
    "changed": "after IS NOT NULL AND after <> predicted",
    "mended": "after IS NOT NULL AND after = label AND predicted <> label",
    "broken": "after IS NOT NULL AND after <> label AND predicted = label",
}


def _where(filters: Sequence[tuple[str, str, Any]]) -> tuple[str, list[Any]]:
    parts, values = [], []
    for column, comparison, value in filters:
        _check_column(column)
        if comparison not in COMPARISONS:
            raise InvalidInputError(f"samples are filtered by one of {', '.join(COMPARISONS)}, got {comparison!r}")
        condition = COMPARISONS[comparison].format(column)
        parts.append(f"({condition})")
        values += [value] if "?" in condition else []
    return (f" WHERE {' AND '.join(parts)}" if parts else ""), values

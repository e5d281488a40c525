"""Tables whose files know types: Parquet, and JSON lines (an object on each line)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from xaikit.core.errors import InvalidInputError, MissingDependencyError

HeaderAndRows = tuple[
    list[str], list[list[str]], list[int]
]  # header, rows of texts, and each row's number for messages


def read_parquet(path: Path) -> HeaderAndRows:
    """The columns and rows of a Parquet file; missing values are empty texts.

    Raises:
        InvalidInputError: for a file that is none, or columns of lists and the like.
        MissingDependencyError: without pyarrow.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingDependencyError("reading Parquet needs pyarrow: pip install 'xaikit[parquet]'") from None
    try:
        file = parquet.ParquetFile(path)
        names = [str(name) for name in file.schema_arrow.names]
        columns = [column.to_pylist() for column in file.read().columns]
    except (ArrowException, OSError, ValueError, KeyError, MemoryError) as err:
        raise InvalidInputError(f"{path} is not a Parquet file ({' '.join(str(err).split())[:120]})") from None
    texts = [[_text(value, path, name) for value in column] for name, column in zip(names, columns, strict=True)]
    rows = [list(row) for row in zip(*texts, strict=True)]
    return names, rows, list(range(1, len(rows) + 1))


def read_json_lines(path: Path) -> HeaderAndRows:
    """The fields of the objects in a file with one on each line, in the order in which they appear.

    Raises:
        InvalidInputError: for a line that holds anything else; it is named.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as err:
        raise InvalidInputError(f"{path} is not a text file in UTF-8 ({err})") from None
    objects: list[tuple[int, dict[str, Any]]] = []
    for i, line in enumerate(lines, 1):
        if line.strip():
            objects.append((i, _object(line, f"{path}, line {i}")))
    names = list(dict.fromkeys(name for _, item in objects for name in item))
    rows = [[_text(item.get(name), path, name) for name in names] for _, item in objects]
    return names, rows, [i for i, _ in objects]


def _object(line: str, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InvalidInputError(f"{where} has two fields called {twice!r}")
        return dict(pairs)

    try:
        item = json.loads(line, object_pairs_hook=unique)
    except InvalidInputError:
        raise
    except (ValueError, RecursionError) as err:
        raise InvalidInputError(f"{where} is not JSON ({' '.join(str(err).split())[:120]})") from None
    if not isinstance(item, dict):
        raise InvalidInputError(f'{where} must hold an object such as {{"text": "...", "label": "..."}}')
    return item


def _text(value: Any, path: Path, name: str) -> str:
    """A value as a table of text has it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, (list, dict, bytes, tuple)):
        raise InvalidInputError(f"{path}: the column {name!r} holds {type(value).__name__}, not numbers or texts")
    return str(value)

"""The groups of samples on the command line: a column of the table, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

GROUP_COLUMN = "group"  # of a file of several columns


def read_groups(text: str, data: str) -> list[Any]:
    """The name of each sample's group, in the order of the data.

    Args:
        text: of --groups: a file (.npy, .txt with a name in each line, or a table with a column `group`, or with one
            column), or the name of a column of --data, where that is a table.
        data: of --data, or of --validation.

    Raises:
        InvalidInputError: for what is neither, and for a table without such a column.
    """
    from xaikit.core.errors import InvalidInputError
    from xaikit.files.tables import TABLES, read_table

    path = Path(text)
    if path.is_file() and path.suffix.lower() in TABLES:
        table = read_table(path)
        return table.column(table.header[0] if len(table.header) == 1 else GROUP_COLUMN)
    if path.is_file() and path.suffix.lower() == ".npy":
        import numpy as np

        values: list[Any] = np.load(path, allow_pickle=False).tolist()
        return values
    if path.is_file():
        return path.read_text().splitlines()
    if Path(data).suffix.lower() in TABLES and Path(data).is_file():
        return read_table(Path(data)).column(text)
    raise InvalidInputError(
        f"--groups must be a file (.npy, .txt, .csv with a column {GROUP_COLUMN!r}) or, where --data is a table, one "
        f"of its columns, got {text!r}"
    )

"""Tables: text with commas, semicolons or tabs, as spreadsheets write it (decimal commas too); Parquet; JSON lines."""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import math
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.core.files import check_is_file
from xaikit.files.typed_tables import read_json_lines, read_parquet

TABLES = (".csv", ".tsv", ".parquet", ".jsonl")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
MISSING = {"", "na", "n/a", "nan", "null", "none", "?", "-", "#n/a", "missing"}
DECIMAL_COMMA = re.compile(r"[+-]?(\d{1,3}(\.\d{3})+|\d*),\d+([eE][+-]?\d+)?")
NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(\.\d{3})+")  # 1.234 where commas are decimal; elsewhere 1234/1000
SHOWN = 3  # rows or columns that a message names


@dataclasses.dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        path: the file.
        header: names of the columns.
        rows: one list of texts for each row, as long as the header.
        separator: what stands between the values; empty where the file knows its types.
        lines: number of each row's line in the file, which messages name.
    """

    path: Path
    header: list[str]
    rows: list[list[str]]
    separator: str
    lines: list[int]

    def column(self, name: str) -> list[str]:
        """The texts of one column.

        Raises:
            UnknownNameError: for a column that is not there.
        """
        if name not in self.header:
            raise UnknownNameError(f"{self.path} has no column {name!r}{near_names(name, self.header)}")
        at = self.header.index(name)
        return [row[at] for row in self.rows]

    def numbers(self, name: str) -> list[float]:
        """The numbers of one column; decimal commas count where the columns are not separated by commas.

        Raises:
            InvalidInputError: for a missing value, or one that is no finite number; row and column are named.
            UnknownNameError: for a column that is not there.
        """
        texts = [text.strip() for text in self.column(name)]
        self.check_missing(name, texts)
        decimal_comma = self.separator not in ("", ",") and any(DECIMAL_COMMA.fullmatch(text) for text in texts)
        if not decimal_comma:
            self._check_points(name, texts)
        return [self._number(text, line, name, decimal_comma) for text, line in zip(texts, self.lines, strict=True)]

    def _check_points(self, name: str, texts: Sequence[str]) -> None:
        """Refuse points that may part thousands: in a table whose other columns have decimal commas."""
        pointed = [text for text in texts if "." in text]
        if self.separator in ("", ",") or not pointed or not all(THOUSANDS.fullmatch(text) for text in pointed):
            return
        other = next((text for row in self.rows for text in row if DECIMAL_COMMA.fullmatch(text.strip())), None)
        if other is not None:
            raise InvalidInputError(
                f"{self.path}, column {name!r}: {pointed[0]!r} may be {pointed[0].replace('.', '')}, since other "
                f"columns have decimal commas ({other.strip()}); write the column without points that part thousands"
            )

    def check_missing(self, name: str, texts: Sequence[str], missing: Collection[str] = MISSING) -> None:
        """Refuse a column in which values are missing.

        Args:
            name: of the column.
            texts: of its rows, without blanks around them.
            missing: texts that say so, in lower case.

        Raises:
            InvalidInputError: which names column and rows.
        """
        lines = [line for text, line in zip(texts, self.lines, strict=True) if text.lower() in missing]
        if lines:
            shown_lines = ", ".join(map(str, lines[:SHOWN])) + (", ..." if len(lines) > SHOWN else "")
            raise InvalidInputError(
                f"{self.path}, column {name!r}: {len(lines)} of {len(texts)} values are missing (row {shown_lines}); "
                "fill them in, or leave the column out with --columns"
            )

    def _number(self, text: str, line: int, name: str, decimal_comma: bool) -> float:
        where = f"{self.path}, row {line}, column {name!r}: {text!r}"
        if decimal_comma and "." in text and not DECIMAL_COMMA.fullmatch(text):
            raise InvalidInputError(
                f"{where} has a decimal point where other rows have a decimal comma; use one of both"
            )
        try:
            value = float(text.replace(".", "").replace(",", ".") if decimal_comma else text)
        except ValueError:
            raise InvalidInputError(
                f"{where} is no number; name the columns of numbers with --columns, those of categories with --one-hot"
            ) from None
        if not math.isfinite(value) or "_" in text:
            raise InvalidInputError(f"{where} is no finite number")
        return value


def read_table(path: Path) -> TextTable:
    """The table in a file; the separator is the one with which every row has as many values as the header.

    Args:
        path: a .csv or .tsv file, in UTF-8, UTF-16 (with its byte order mark) or Windows-1252; .parquet; or .jsonl, an
            object on each line.

    Raises:
        InvalidInputError: for a file that is no table, rows of different lengths, or two columns of one name.
    """
    check_is_file(path)
    readers = {".parquet": read_parquet, ".jsonl": read_json_lines}
    if path.suffix.lower() in readers:
        header, rows, lines = readers[path.suffix.lower()](path)
        if not rows:
            raise InvalidInputError(f"{path} holds no rows")
        return _without_doubles(TextTable(path, header, rows, "", lines))
    text = _decoded(path)
    first, _, body = text.partition("\n")
    declared = re.fullmatch(r"sep=(.)\r?", first)
    skipped = 1 if declared else 0
    tables = [_split(path, body if declared else text, s) for s in ([declared[1]] if declared else SEPARATORS)]
    # One column is a table only where no separator stands between the names of the columns.
    n_columns = min(2, max(len(t.header) for t in tables))
    fitting = [t for t in tables if len(t.header) >= n_columns and t.rows and _is_even(t)]
    if not fitting:
        _refuse(path, max(tables, key=lambda t: len(t.header)), skipped)
    table = max(fitting, key=lambda t: len(t.header))
    _check_names(table)
    return _without_doubles(dataclasses.replace(table, lines=[line + skipped for line in table.lines]))


def _check_names(table: TextTable) -> None:
    """Refuse a first row that is a sample: its numbers would be the names of the columns."""
    header = table.header
    if not all(NUMBER.fullmatch(name) for name in header):
        return
    advice = "put a row with the names of the columns above it"
    if not all(name.isdecimal() for name in header):
        raise InvalidInputError(
            f"{table.path}: the first row holds numbers only ({', '.join(header[:SHOWN])}); {advice}"
        )
    counted = [[str(i) for i in range(start, start + len(header))] for start in (0, 1)]
    if header not in counted and len(header) > 1:  # as pandas writes an array
        warnings.warn(
            f"{table.path}: the first row ({', '.join(header[:SHOWN])}) is read as the names of the columns; if it is "
            f"a sample, {advice}",
            stacklevel=3,
        )


def _without_doubles(table: TextTable) -> TextTable:
    twice = next((name for name in table.header if table.header.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"{table.path} has {table.header.count(twice)} columns called {twice!r}; rename them")
    return table


def _is_even(table: TextTable) -> bool:
    return all(len(row) == len(table.header) for row in table.rows)


def _split(path: Path, text: str, separator: str) -> TextTable:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        # Rows are counted as spreadsheets count them: one for each row, whatever line breaks a value holds.
        rows = [(row, i) for i, row in enumerate(reader, 1) if any(value.strip() for value in row)]
    except csv.Error as err:
        raise InvalidInputError(f"{path} is no table of text ({err})") from None
    header = [name.strip() for name in rows[0][0]] if rows else []
    return TextTable(path, header, [row for row, _ in rows[1:]], separator, [i for _, i in rows[1:]])


def _refuse(path: Path, table: TextTable, skipped: int) -> None:
    if not table.rows:
        raise InvalidInputError(f"{path} needs a line of column names and at least one row")
    row, line = next((r, i) for r, i in zip(table.rows, table.lines, strict=True) if len(r) != len(table.header))
    comma = "; a number with a decimal comma needs another separator, such as a semicolon" if len(row) > 1 else ""
    raise InvalidInputError(
        f"{path}, row {line + skipped}: {len(row)} values for {len(table.header)} columns (separated by "
        f"{SEPARATORS.get(table.separator, repr(table.separator))}){comma if table.separator == ',' else ''}"
    )


def _decoded(path: Path) -> str:
    content = path.read_bytes()
    if b"\0" in content and not content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise InvalidInputError(f"{path} is no table of text (it holds zero bytes)")
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError:
        pass
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError as err:
        raise InvalidInputError(f"{path} is no table of text ({err}); save it as UTF-8") from None
    warnings.warn(f"{path} is not in UTF-8; it is read as Windows-1252", stacklevel=2)
    return text

"""Tables of the command line as samples: rows of numbers, texts, or time series in long form."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaikit.cli.class_names import ClassNames
from xaikit.cli.samples import Samples
from xaikit.core import Int
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.files.encoding import TableEncoding, fit_encoding, load_encoding
from xaikit.files.series import read_series
from xaikit.files.tables import TextTable, read_table

KEPT = 10_000  # texts whose ids are kept, since a training reads each in every epoch: 20 MB of 512 tokens each


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """The meaning of a table's columns; each field is a flag.

    Attributes:
        labels: the column that holds the class.
        text: the column that holds the text; without it the table is one of numbers.
        columns: the columns that the model gets; by default all others.
        one_hot: columns of categories.
        standardise: columns of numbers get the mean 0 and the standard deviation 1.
        encoding: a file that says how columns become numbers; it is written if it does not exist.
        series: the columns of a series' name and of the time, for tables in long form.
        length: tokens of a text.
    """

    labels: str = ""
    text: str = ""
    columns: Sequence[str] = ()
    one_hot: Sequence[str] = ()
    standardise: bool = False
    encoding: Path | TableEncoding | None = None
    series: Sequence[str] = ()
    length: int = 128

    @property
    def first_flag(self) -> str:
        """The first flag that is set and is about a table; empty for none."""
        fields = ("text", "labels", "columns", "one_hot", "standardise", "series")
        name = next((field for field in fields if getattr(self, field)), "")
        return f"--{name.replace('_', '-')}" if name else "--encoding" if isinstance(self.encoding, Path) else ""


@dataclasses.dataclass(frozen=True)
class TextReader:
    """Converts texts to token ids.

    Attributes:
        tokenizer: of transformers.
        name: where it came from.
    """

    tokenizer: Any
    name: str


def table_data(path: Path, options: TableOptions, classes: ClassNames, reader: TextReader | None) -> Samples:
    """The rows of a table as samples.

    Raises:
        InvalidInputError: for values that are missing or no numbers, or flags that do not go together.
        UnknownNameError: for a column that is not there.
    """
    table = read_table(path)
    # A file of JSON lines has its fields by name.
    if path.suffix.lower() == ".jsonl" and not options.text and not options.columns and "text" in table.header:
        has_label = "label" in table.header and not options.labels
        options = dataclasses.replace(options, text="text", labels="label" if has_label else options.labels)
    if options.text:
        if reader is None or reader.tokenizer is None:
            raise InvalidInputError("texts need a tokenizer: name the model as hf:FOLDER, or --tokenizer hf:FOLDER")
        return _texts(table, options, classes, reader)
    return _series(table, options, classes) if options.series else _rows(table, options, classes)


def _rows(table: TextTable, options: TableOptions, classes: ClassNames) -> Samples:
    if {"id", "time"} <= {name.lower() for name in table.header} and not options.columns and options.encoding is None:
        raise InvalidInputError(
            f"{table.path} has the columns id and time: for time series give --series id,time; if each row is a "
            "sample, name the columns that the model gets with --columns"
        )
    labels, names = _labels(table, options.labels, classes)
    encoding = _encoding(table, options)
    x = torch.tensor(encoding.encode(table)).T.contiguous()
    return Samples(
        [f"row {line}" for line in table.lines],
        lambda i: x[i],
        labels,
        names,
        encoding.features,
        labels_from=options.labels,
        fingerprint=lambda i: _row_hash(table.rows[i]),
        encoding=encoding,
    )


def _encoding(table: TextTable, options: TableOptions) -> TableEncoding:
    """The encoding in the named file, or one of the table itself, which is written if a file is named."""
    file = options.encoding
    if isinstance(file, TableEncoding):
        return file
    if file is not None and file.is_dir():
        raise InvalidInputError(f"--encoding {file} is a folder; name a .json file in it")
    if file is not None and file.exists():
        if options.one_hot or options.standardise or options.columns:
            raise InvalidInputError(
                f"--encoding {file} is there and says how columns become numbers; leave out --columns, --one-hot and "
                "--standardise, or name a new file"
            )
        return load_encoding(file)
    chosen = list(options.columns) or [name for name in table.header if name != options.labels]
    if "" in chosen:
        raise InvalidInputError(
            f"{table.path}: column {table.header.index('') + 1} has no name, as where pandas writes its index; leave "
            "it out with --columns, or write the table with index=False"
        )
    twice = next((name for name in chosen if chosen.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"--columns names {twice!r} more than once")
    encoding = fit_encoding(table, chosen, one_hot=options.one_hot, standardise=options.standardise)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        encoding.save(file)
        warnings.warn(f"wrote {file}, by {encoding.fitted_on}", stacklevel=2)
    elif options.standardise or options.one_hot:
        scales = ["means and standard deviations"] if options.standardise else []
        use = " and ".join([*(["categories"] if options.one_hot else []), *scales])
        warnings.warn(
            f"the {use} are those of {encoding.fitted_on}; if the model was trained on other rows, keep theirs with "
            "--encoding",
            stacklevel=2,
        )
    return encoding


def _series(table: TextTable, options: TableOptions, classes: ClassNames) -> Samples:
    if len(options.series) != 2 or options.one_hot or options.standardise or options.encoding:
        raise InvalidInputError(
            "--series names two columns, those of the series' name and of the time: --series id,time; it does not go "
            "with --one-hot, --standardise and --encoding"
        )
    name, time = options.series
    channels = list(options.columns) or [c for c in table.header if c not in (name, time, options.labels)]
    series = read_series(table, name, time, channels)
    x = torch.tensor(series.values)
    labels: list[int] = []
    class_names: Sequence[str] = classes.from_user or classes.from_model
    if options.labels:
        by_row, class_names = _labels(table, options.labels, classes)
        for series_name, rows in zip(series.names, series.rows, strict=True):
            if len({by_row[i] for i in rows}) > 1:
                raise InvalidInputError(
                    f"{table.path}: the series {series_name!r} has several labels in {options.labels!r}; it takes one"
                )
        labels = [by_row[rows[0]] for rows in series.rows]
    return Samples(
        series.names,
        lambda i: x[i],
        labels,
        class_names,
        channels,
        labels_from=options.labels,
        fingerprint=lambda i: _row_hash([value for row in series.rows[i] for value in table.rows[row]]),
    )


def _texts(table: TextTable, options: TableOptions, classes: ClassNames, reader: TextReader) -> Samples:
    """The texts of a table as token ids (T,), each padded or cut to a length."""
    strings, tokenizer = table.column(options.text), reader.tokenizer

    def ids(tokens: Sequence[str]) -> Sequence[int]:
        token_ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}
        unknown = (None, tokenizer.unk_token_id)
        stranger = next((t for t, i in token_ids.items() if i in unknown and t != tokenizer.unk_token), None)
        if stranger is not None:
            raise UnknownNameError(f"the tokenizer knows no token {stranger!r}")
        return list(token_ids.values())

    labels, names = _labels(table, options.labels, classes)

    @functools.lru_cache(KEPT)
    def kept(row: int) -> Tensor:
        return text_ids(strings[row], tokenizer, options.length).int()

    return Samples(
        [text[:80] for text in strings],
        lambda row: kept(row).long(),  # each caller gets a tensor of its own
        labels,
        names,
        tokenizer=reader.name,
        ids=ids,
        labels_from=options.labels,
        fingerprint=lambda i: _row_hash([strings[i]]),
    )


def text_ids(text: str, tokenizer: Any, length: int) -> Tensor:
    """The token ids (T,) of a text, padded or cut to `length`."""
    Int(ge=1).check(length, "--length")
    encoded = tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids: Tensor = encoded["input_ids"][0]
    return ids


def _row_hash(values: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(values).encode()).hexdigest()[:16]


def _labels(table: TextTable, column: str, classes: ClassNames) -> tuple[list[int], Sequence[str]]:
    if not column:
        return [], classes.from_user or classes.from_model
    texts = table.column(column)
    empty = next((line for text, line in zip(texts, table.lines, strict=True) if not text.strip()), None)
    if empty is not None:
        raise InvalidInputError(f"{table.path}, row {empty}: the label in column {column!r} is missing")
    return classes.of(texts)

"""Data sets from the command line: a folder of images, an array, a table, texts, or ``module:dataset``."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaikit.cli.class_names import ClassNames, folder_labels
from xaikit.cli.inputs import read_batch
from xaikit.cli.models import imported
from xaikit.cli.samples import PictureFiles, Samples
from xaikit.core import Int
from xaikit.core.errors import InvalidInputError, UnknownNameError
from xaikit.files.arrays import read_npy, read_npz
from xaikit.files.pictures import PICTURES, Preparation
from xaikit.files.tables import TextTable, read_table
from xaikit.runs import UnreadableSampleError

LABELS = "labels.csv"


def image_folder(
    folder: Path, preparation: Preparation, *, strict: bool = False, classes: ClassNames | None = None
) -> Samples:
    """The pictures of a folder and those below it, by name.

    Labels come from labels.csv (columns file and label) in the folder; without it, from the first folder of each
    picture's path, where every picture lies in one of several.

    Raises:
        InvalidInputError: for a folder without pictures, or labels that do not fit them.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    if not files:
        raise InvalidInputError(f"{folder} holds no image ({', '.join(PICTURES)})")
    names = [p.relative_to(folder).as_posix() for p in files]

    def read(index: int) -> Tensor:
        try:
            return read_batch(files[index], preparation)[0][0]
        except InvalidInputError as err:
            if strict:
                raise
            raise UnreadableSampleError(str(err)) from None

    class_names, path = classes or ClassNames(), folder / LABELS
    label_words = _labels_of(path, names) if path.is_file() else folder_labels(names)
    labels, called = class_names.of(label_words) if label_words else ((), class_names.from_user)
    return Samples(
        names,
        read,
        labels,
        called,
        labels_from=("" if not label_words else LABELS if path.is_file() else "folders"),
        pictures=PictureFiles(files, preparation),
        fingerprint=lambda i: _hash(files[i].read_bytes()),
    )


def _labels_of(path: Path, names: Sequence[str]) -> list[str]:
    """The label of each picture, as labels.csv has it."""
    table = read_table(path)
    labels: dict[str, str] = {}
    for file, label in zip(table.column("file"), table.column("label"), strict=True):
        name = PurePosixPath(file.strip().replace("\\", "/")).as_posix()
        if labels.setdefault(name, label) != label:
            raise InvalidInputError(f"{path} gives {name!r} two labels, {labels[name]!r} and {label!r}")
    missing = [name for name in names if name not in labels]
    if missing:
        raise InvalidInputError(f"{path} has no label for {missing[0]!r} ({len(missing)} of {len(names)} images)")
    absent = sorted(set(labels) - set(names))
    if absent:
        warnings.warn(f"{path} names {absent[0]!r}, which is not in the folder ({len(absent)} such)", stacklevel=2)
    return [labels[name] for name in names]


def array(path: Path) -> Samples:
    """The samples of a .npy (N, ...), or of a .npz with x (N, ...) and perhaps y (N,); .npy is never read whole.

    Raises:
        InvalidInputError: for anything but an array of numbers.
    """
    labels: list[int] = []
    if path.suffix == ".npz":
        arrays = read_npz(path)
        if "x" not in arrays:
            raise InvalidInputError(f"{path} must hold the samples as 'x', it holds {', '.join(arrays) or 'nothing'}")
        x = arrays["x"]
        labels = _whole(path, arrays["y"], len(x)) if "y" in arrays and x.ndim else []
    else:
        x = read_npy(path)
    if x.ndim < 2:
        raise InvalidInputError(
            f"{path} must hold numbers, samples first: shape (N, ...); got {x.dtype} of shape {x.shape}"
        )

    def read(index: int) -> Tensor:
        row = np.array(x[index])
        return torch.from_numpy(row.astype(np.float32) if row.dtype.kind == "f" else row)

    names = [f"row {i}" for i in range(len(x))]
    return Samples(names, read, labels, labels_from="y" if labels else "", fingerprint=lambda i: _hash(x[i].tobytes()))


def _whole(path: Path, y: Any, n: int) -> list[int]:
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise InvalidInputError(
            f"{path}: y must hold one whole number for each of {n} samples, got {y.dtype} {y.shape}"
        )
    return [int(v) for v in y]


def table(
    path: Path, label_column: str = "", columns: Sequence[str] = (), classes: ClassNames | None = None
) -> Samples:
    """The rows of a .csv as numbers; all columns but the label's, or the named ones.

    Raises:
        InvalidInputError: for a value that is missing or no number; the message names its row and column.
        UnknownNameError: for a column that is not there.
    """
    texts_table = read_table(path)
    labels, called = _labels(texts_table, label_column, classes)
    chosen = list(columns) or [name for name in texts_table.header if name != label_column]
    twice = next((name for name in chosen if chosen.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(f"--columns names {twice!r} more than once")
    x = torch.tensor([texts_table.numbers(name) for name in chosen]).T.contiguous()
    names = [f"row {line}" for line in texts_table.lines]
    rows = texts_table.rows
    return Samples(
        names,
        lambda i: x[i],
        labels,
        called,
        chosen,
        labels_from=label_column,
        fingerprint=lambda i: _hash("\0".join(rows[i]).encode()),
    )


def texts(  # noqa: PLR0913
    path: Path,
    text_column: str,
    tokenizer: Any,
    *,
    label_column: str = "",
    length: int = 128,
    classes: ClassNames | None = None,
    name: str = "",
) -> Samples:
    """The texts of a .csv as token ids (T,), each padded or cut to `length`.

    Raises:
        UnknownNameError: for a column that is not there.
    """
    texts_table = read_table(path)
    texts_read = texts_table.column(text_column)

    def ids(tokens: Sequence[str]) -> Sequence[int]:
        token_ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}
        unknown = (None, tokenizer.unk_token_id)
        stranger = next((t for t, i in token_ids.items() if i in unknown and t != tokenizer.unk_token), None)
        if stranger is not None:
            raise UnknownNameError(f"the tokenizer knows no token {stranger!r}")
        return list(token_ids.values())

    labels, called = _labels(texts_table, label_column, classes)
    return Samples(
        [text[:80] for text in texts_read],
        lambda i: text_ids(texts_read[i], tokenizer, length),
        labels,
        called,
        tokenizer=name,
        ids=ids,
        labels_from=label_column,
        fingerprint=lambda i: _hash(texts_read[i].encode()),
    )


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def text_ids(text: str, tokenizer: Any, length: int) -> Tensor:
    """The token ids (T,) of a text, padded or cut to `length`."""
    Int(ge=1).check(length, "--length")
    encoded = tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids: Tensor = encoded["input_ids"][0]
    return ids


def _labels(table: TextTable, column: str, classes: ClassNames | None) -> tuple[list[int], Sequence[str]]:
    class_names = classes or ClassNames()
    if not column:
        return [], class_names.from_user or class_names.from_model
    texts_read = table.column(column)
    empty = next((line for text, line in zip(texts_read, table.lines, strict=True) if not text.strip()), None)
    if empty is not None:
        raise InvalidInputError(f"{table.path}, row {empty}: the label in column {column!r} is missing")
    return class_names.of(texts_read)


def open_data(  # noqa: PLR0913
    source: str,
    preparation: Preparation,
    *,
    labels: str = "",
    classes: ClassNames | None = None,
    text: str = "",
    columns: Sequence[str] = (),
    tokenizer: Any = None,
    tokenizer_name: str = "",
    length: int = 128,
    strict: bool = False,
) -> Any:
    """The data set that a word on the command line means.

    Args:
        source: a folder of images, a .npy, .npz or .csv file, or ``module:dataset``.
        preparation: of images.
        labels: the column of a .csv that holds the class.
        classes: the words that labels may use.
        text: the column of a .csv that holds the text; without it the .csv is a table of numbers.
        columns: of a table; all by default.
        tokenizer: of the model, for texts.
        tokenizer_name: where it came from.
        length: tokens of a text.
        strict: stop at an unreadable image.

    Raises:
        InvalidInputError, UnknownNameError, InvalidTypeError: for what cannot be read as such; the message says why.
    """
    path, class_names = Path(source), classes or ClassNames()
    column_options = {"--text": text, "--labels": labels, "--columns": columns}
    option = next((name for name, value in column_options.items() if value), "")
    if option and path.suffix != ".csv":
        raise InvalidInputError(f"{option} names columns of a .csv, and {source} is none")
    if path.is_dir():
        return image_folder(path, preparation, strict=strict, classes=class_names)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return dataclasses.replace(array(path), classes=class_names.from_user or class_names.from_model)
    if path.suffix == ".csv" and path.is_file():
        if not text:
            return table(path, labels, columns, class_names)
        if tokenizer is None:
            raise InvalidInputError("texts need a tokenizer: name the model as hf:FOLDER, or --tokenizer hf:FOLDER")
        options: dict[str, Any] = {"length": length, "classes": class_names, "name": tokenizer_name}
        return texts(path, text, tokenizer, label_column=labels, **options)
    if ":" in source and not path.suffix:
        return imported(source, "a data set", "module:dataset")
    if not path.exists():
        raise InvalidInputError(f"no such file or folder: {path}")
    raise InvalidInputError(f"data is a folder of images, a .npy, .npz or .csv file, or module:dataset; got {source!r}")

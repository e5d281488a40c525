"""Data sets from the command line: a folder of images, an array, a table, texts, or ``module:dataset``."""

from __future__ import annotations

import csv
import dataclasses
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaikit.cli.inputs import Preparation, read_batch
from xaikit.cli.models import imported
from xaikit.core import Int
from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.runs import UnreadableSampleError

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm")
LABELS = "labels.csv"


@dataclasses.dataclass(frozen=True)
class Samples:
    """A data set by index: (x, label), or x where there are no labels.

    Attributes:
        names: of the samples, such as file names.
        read: the input of a sample, without the batch axis.
        labels: class of each sample; empty where there are none.
        classes: names of the classes, where labels are words.
        features: names of the columns of a table.
        tokenizer: ``hf:FOLDER`` that reads the token ids of texts.
        ids: token ids of some words, for texts.
    """

    names: Sequence[str]
    read: Callable[[int], Any]
    labels: Sequence[int] = ()
    classes: Sequence[str] = ()
    features: Sequence[str] = ()
    tokenizer: str = ""
    ids: Callable[[Sequence[str]], Sequence[int]] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        x = self.read(index)
        return (x, self.labels[index]) if self.labels else x


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """What the words of a label mean.

    Attributes:
        from_user: the classes in the order of the model's outputs, as --classes gives them; every label must be one.
        from_model: the classes as the model's folder names them; they count if all labels are among them.
    """

    from_user: Sequence[str] = ()
    from_model: Sequence[str] = ()

    def of(self, labels: list[str]) -> tuple[list[int], Sequence[str]]:
        """Class indices and names: whole numbers as they are, words in the known order, else in the alphabetical one.

        Raises:
            UnknownNameError: for a label that is none of the given classes.
        """
        if all(label.strip().isdecimal() for label in labels) and not set(labels) & set(self.from_user):
            return [int(label) for label in labels], self.from_user or self.from_model
        label_words = set(labels)
        stranger = next((label for label in labels if self.from_user and label not in self.from_user), None)
        if stranger is not None:
            raise UnknownNameError(f"the label {stranger!r} is none of --classes{near_names(stranger, self.from_user)}")
        names = self.from_user or (self.from_model if label_words <= set(self.from_model) else sorted(label_words))
        place = {name: i for i, name in enumerate(names)}
        return [place[label] for label in labels], names


def image_folder(
    folder: Path, preparation: Preparation, *, strict: bool = False, classes: ClassNames | None = None
) -> Samples:
    """The images of a folder and those below it, by name; labels.csv beside them (file,label) is optional.

    Raises:
        InvalidInputError: for a folder without images, or labels that do not fit them.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGES and p.is_file())
    if not files:
        raise InvalidInputError(f"{folder} holds no image ({', '.join(IMAGES)})")
    names = [p.relative_to(folder).as_posix() for p in files]

    def read(index: int) -> Tensor:
        try:
            return read_batch(files[index], preparation)[0][0]
        except InvalidInputError as err:
            if strict:
                raise
            raise UnreadableSampleError(str(err)) from None

    known = classes or ClassNames()
    labels, called = _labels_of(folder / LABELS, names, known) if (folder / LABELS).is_file() else ((), known.from_user)
    return Samples(names, read, labels, called)


def _labels_of(path: Path, names: Sequence[str], classes: ClassNames) -> tuple[list[int], Sequence[str]]:
    header, rows = _read_csv(path)
    label_by_file = dict(zip(_column(path, header, rows, "file"), _column(path, header, rows, "label"), strict=True))
    missing = [name for name in names if name not in label_by_file]
    if missing:
        raise InvalidInputError(f"{path} has no label for {missing[0]!r} ({len(missing)} of {len(names)} images)")
    return classes.of([label_by_file[name] for name in names])


def array(path: Path) -> Samples:
    """The samples of a .npy (N, ...), or of a .npz with x (N, ...) and perhaps y (N,); .npy is never read whole.

    Raises:
        InvalidInputError: for anything but an array of numbers.
    """
    labels: list[int] = []
    try:
        if path.suffix == ".npz":
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                if "x" not in file.files:
                    raise InvalidInputError(f"{path} must hold the samples as 'x', it holds {', '.join(file.files)}")
                x = file["x"]
                labels = _whole(path, file["y"], len(x)) if "y" in file.files else []
        else:
            x = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as err:
        if isinstance(err, InvalidInputError):
            raise
        raise InvalidInputError(f"{path} is not an array of numbers ({err})") from None
    if x.dtype.kind not in "fiub" or x.ndim < 2:
        raise InvalidInputError(
            f"{path} must hold numbers, samples first: shape (N, ...); got {x.dtype} of shape {x.shape}"
        )

    def read(index: int) -> Tensor:
        row = np.array(x[index])
        return torch.from_numpy(row.astype(np.float32) if row.dtype.kind == "f" else row)

    return Samples([f"row {i}" for i in range(len(x))], read, labels)


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
        InvalidInputError: for a value that is no number; the message names its row and column.
        UnknownNameError: for a column that is not there.
    """
    header, rows = _read_csv(path)
    labels, called = _labels(path, header, rows, label_column, classes)
    chosen = list(columns) or [name for name in header if name != label_column]
    by_column = [_column(path, header, rows, name) for name in chosen]
    x = torch.empty(len(rows), len(chosen))
    for j, values in enumerate(by_column):
        for i, text in enumerate(values):
            try:
                x[i, j] = float(text)
            except ValueError:
                raise InvalidInputError(
                    f"{path}, row {i + 2}, column {chosen[j]!r}: {text!r} is no number; name the columns with --columns"
                ) from None
    return Samples([f"row {i + 2}" for i in range(len(rows))], lambda i: x[i], labels, called, chosen)


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
    header, rows = _read_csv(path)
    texts_read = _column(path, header, rows, text_column)

    def ids(tokens: Sequence[str]) -> Sequence[int]:
        token_ids = {word: tokenizer.convert_tokens_to_ids(word) for word in tokens}
        unknown = (None, tokenizer.unk_token_id)
        stranger = next((word for word, i in token_ids.items() if i in unknown and word != tokenizer.unk_token), None)
        if stranger is not None:
            raise UnknownNameError(f"the tokenizer knows no token {stranger!r}")
        return list(token_ids.values())

    labels, called = _labels(path, header, rows, label_column, classes)
    names = [text[:80] for text in texts_read]
    return Samples(names, lambda i: text_ids(texts_read[i], tokenizer, length), labels, called, tokenizer=name, ids=ids)


def text_ids(text: str, tokenizer: Any, length: int) -> Tensor:
    """The token ids (T,) of a text, padded or cut to `length`."""
    Int(ge=1).check(length, "--length")
    encoded = tokenizer(text, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    ids: Tensor = encoded["input_ids"][0]
    return ids


def _labels(
    path: Path, header: list[str], rows: list[list[str]], column: str, classes: ClassNames | None
) -> tuple[list[int], Sequence[str]]:
    known = classes or ClassNames()
    return known.of(_column(path, header, rows, column)) if column else ([], known.from_user or known.from_model)


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        raise InvalidInputError(f"no such file: {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = list(csv.reader(file)) or [[]]
    except (UnicodeDecodeError, csv.Error) as err:
        raise InvalidInputError(f"{path} is no CSV of text ({err})") from None
    rows = [row for row in rows if row]
    if not header or not rows:
        raise InvalidInputError(f"{path} needs a line of column names and at least one row")
    for i, row in enumerate(rows):
        if len(row) != len(header):
            raise InvalidInputError(f"{path}, row {i + 2}: {len(row)} values for {len(header)} columns")
    return header, rows


def _column(path: Path, header: list[str], rows: list[list[str]], name: str) -> list[str]:
    if name not in header:
        raise UnknownNameError(f"{path} has no column {name!r}{near_names(name, header)}")
    at = header.index(name)
    return [row[at] for row in rows]


def open_data(  # noqa: PLR0913
    source: str,
    preparation: Preparation,
    *,
    labels: str = "",
    classes: Sequence[str] = (),
    usual_classes: Sequence[str] = (),
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
        classes: the words of a label, in the order of the model's outputs.
        usual_classes: the same, as the model names them; it counts where they are the labels' words.
        text: the column of a .csv that holds the text; without it the .csv is a table of numbers.
        columns: of a table; all by default.
        tokenizer: of the model, for texts.
        tokenizer_name: where it came from.
        length: tokens of a text.
        strict: stop at an unreadable image.

    Raises:
        InvalidInputError, UnknownNameError, InvalidTypeError: for what cannot be read as such; the message says why.
    """
    path, known = Path(source), ClassNames(tuple(classes), tuple(usual_classes))
    column_options = {"--text": text, "--labels": labels, "--columns": columns}
    option = next((name for name, value in column_options.items() if value), "")
    if option and path.suffix != ".csv":
        raise InvalidInputError(f"{option} names columns of a .csv, and {source} is none")
    if path.is_dir():
        return image_folder(path, preparation, strict=strict, classes=known)
    if path.suffix in (".npy", ".npz") and path.is_file():
        return dataclasses.replace(array(path), classes=known.from_user or known.from_model)
    if path.suffix == ".csv" and path.is_file():
        if not text:
            return table(path, labels, columns, known)
        if tokenizer is None:
            raise InvalidInputError("texts need a tokenizer: name the model as hf:FOLDER, or --tokenizer hf:FOLDER")
        options: dict[str, Any] = {"length": length, "classes": known, "name": tokenizer_name}
        return texts(path, text, tokenizer, label_column=labels, **options)
    if ":" in source and not path.suffix:
        return imported(source, "a data set", "module:dataset")
    if not path.exists():
        raise InvalidInputError(f"no such file or folder: {path}")
    raise InvalidInputError(f"data is a folder of images, a .npy, .npz or .csv file, or module:dataset; got {source!r}")

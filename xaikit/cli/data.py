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
from xaikit.cli.samples import PictureFiles, Samples
from xaikit.cli.table_data import TableOptions, TextReader, table_data
from xaikit.cli.user_imports import load_data_set
from xaikit.core.errors import InvalidInputError
from xaikit.core.files import check_is_file, similar_paths
from xaikit.files.arrays import read_npy, read_npz
from xaikit.files.pictures import PICTURES, Preparation, comparable
from xaikit.files.tables import TABLES, read_table
from xaikit.runs import UnreadableSampleError

LABELS = "labels.csv"
PACKED = "it is packed; unpack it, and name the file or folder that comes out"
SHEET = "it is a spreadsheet; save it as .csv, and name that"
# Files that people have and that no reader takes, and what to do.
REMEDIES = {
    **dict.fromkeys((".gz", ".bz2", ".xz", ".zst", ".zip", ".tar", ".tgz", ".7z"), PACKED),
    **dict.fromkeys((".xlsx", ".xls", ".ods"), SHEET),
}


def image_folder(
    folder: Path, preparation: Preparation, *, strict: bool = False, classes: ClassNames | None = None
) -> Samples:
    """The pictures of a folder and those below it, by name.

    Labels come from labels.csv (columns file and label) in the folder; without it, from the first folder of each
    picture's path, where every picture lies in one of several.

    Raises:
        InvalidInputError: for a folder without pictures, or labels that do not fit them.
    """
    files = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in PICTURES and p.is_file() and _is_shown(p, folder)
    )
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
        fingerprint=lambda i: content_hash(files[i].read_bytes()),
    )


def _is_shown(path: Path, folder: Path) -> bool:
    """Whether a file is one of the user's: hidden ones, and what macOS adds to archives, are not."""
    return not any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)


def _labels_of(path: Path, names: Sequence[str]) -> list[str]:
    """The label of each picture, as labels.csv has it."""
    table = read_table(path)
    labels: dict[str, str] = {}
    for file, label in zip(table.column("file"), table.column("label"), strict=True):
        name = comparable(PurePosixPath(file.strip().replace("\\", "/")).as_posix())
        if not label.strip():
            continue
        if labels.setdefault(name, label) != label:
            raise InvalidInputError(f"{path} gives {name!r} two labels, {labels[name]!r} and {label!r}")
    keys = [comparable(name) for name in names]
    missing = [name for name, key in zip(names, keys, strict=True) if key not in labels]
    if missing:
        raise InvalidInputError(f"{path} has no label for {missing[0]!r} ({len(missing)} of {len(names)} images)")
    absent = sorted(set(labels) - set(keys))
    if absent:
        warnings.warn(f"{path} names {absent[0]!r}, which is not in the folder ({len(absent)} such)", stacklevel=2)
    return [labels[key] for key in keys]


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
    return Samples(
        names, read, labels, labels_from="y" if labels else "", fingerprint=lambda i: content_hash(x[i].tobytes())
    )


def _whole(path: Path, y: Any, n: int) -> list[int]:
    if y.shape != (n,) or y.dtype.kind not in "iu":
        raise InvalidInputError(
            f"{path}: y must hold one whole number for each of {n} samples, got {y.dtype} {y.shape}"
        )
    return [int(v) for v in y]


def content_hash(content: bytes) -> str:
    """A fingerprint of a file or a row."""
    return hashlib.sha256(content).hexdigest()[:16]


def refuse_packed(path: Path) -> None:
    """Refuse archives and spreadsheets.

    Raises:
        InvalidInputError: with what to do.
    """
    remedy = REMEDIES.get(path.suffix.lower())
    if remedy is not None and path.is_file():
        raise InvalidInputError(f"{path} cannot be read as it is: {remedy}")


def open_data(
    source: str,
    preparation: Preparation,
    *,
    options: TableOptions | None = None,
    classes: ClassNames | None = None,
    tokenizer: TextReader | None = None,
    strict: bool = False,
) -> Any:
    """The data set that a word on the command line means.

    Args:
        source: a folder of images, a .npy or .npz, a table (.csv, .tsv, .parquet, .jsonl), or ``module:dataset``.
        preparation: of images.
        options: of tables, series and texts.
        classes: the words that labels may use.
        tokenizer: of the model, for texts.
        strict: stop at an unreadable image.

    Raises:
        InvalidInputError, UnknownNameError, InvalidTypeError: for what cannot be read as such; the message says why.
    """
    path, class_names, options = Path(source), classes or ClassNames(), options or TableOptions()
    ending = path.suffix.lower()
    refuse_packed(path)
    option = options.first_flag
    if option and ending not in TABLES:
        raise InvalidInputError(f"{option} is about the columns of a table ({', '.join(TABLES)}), and {source} is none")
    if path.is_dir():
        return image_folder(path, preparation, strict=strict, classes=class_names)
    if ending in (".npy", ".npz") and path.is_file():
        return dataclasses.replace(array(path), classes=class_names.from_user or class_names.from_model)
    if ending in TABLES and path.is_file():
        return table_data(path, options, class_names, tokenizer)
    if ":" in source and not path.suffix:
        return load_data_set(source)
    if path.is_file() or ending in (*PICTURES, ".npy", ".npz", *TABLES):
        check_is_file(path)
    if not path.exists():
        raise InvalidInputError(f"no such file or folder: {path}{similar_paths(path)}")
    raise InvalidInputError(
        f"data is a folder of images, a .npy or .npz, a table ({', '.join(TABLES)}), or module:dataset; got {source!r}"
    )

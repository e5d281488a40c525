"""INPUT of `xaikit explain`: an image, an array with a few samples, a sentence, or one row of a data set."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from xaikit.cli.data import refuse_packed
from xaikit.cli.hugging_face import tokenizer_of
from xaikit.cli.inputs import read_batch
from xaikit.cli.table_data import text_ids
from xaikit.core.errors import InvalidInputError
from xaikit.core.files import similar_paths
from xaikit.files.pictures import PICTURES
from xaikit.files.tables import TABLES

if TYPE_CHECKING:
    from xaikit.cli.explain import Explain

LONGEST_NAME = 40  # letters of a sentence that its results are called after
WITH_ROWS = (*TABLES, ".npy", ".npz")


@dataclasses.dataclass(frozen=True)
class SampleInput:
    """The samples to explain.

    Attributes:
        inputs: as the model takes them, (N, ...).
        picture: the same samples as a figure shows them.
        name: from which the name of the result's file is made.
        features: names of the columns of a table.
        tokenizer: of texts, where one is known.
        label: the class of a row, where the data has labels.
    """

    inputs: Tensor
    picture: Tensor
    name: str
    features: Sequence[str] = ()
    tokenizer: Any = None
    label: int | None = None

    def words(self, ids: Tensor) -> list[list[str]] | None:
        """The tokens (N, T) as words, where there is a tokenizer."""
        if self.tokenizer is None:
            return None
        return [[str(word) for word in self.tokenizer.convert_ids_to_tokens(row)] for row in ids.tolist()]


def read_input(job: Explain, source: str) -> SampleInput:
    """The INPUT of a call.

    Raises:
        InvalidInputError, UnknownNameError: for what is none; the message says what it could be.
    """
    path, reader = Path(source), tokenizer_of(job.tokenizer or job.model)
    exists = os.path.exists(source)  # noqa: PTH110 (False for what is too long to be a path, such as a sentence)
    if exists:
        refuse_packed(path)
    if job.row is not None:
        return _row(job, path, job.row, reader)
    if exists and path.suffix.lower() in (*TABLES, ".npz"):
        raise InvalidInputError(f"{path} is a data set: name one of its rows, --row N, or explain all, --data {path}")
    if exists and path.is_dir():
        raise InvalidInputError(f"{path} is a folder: explain its images with --data {path}")
    if exists or path.suffix.lower() in (*PICTURES, *WITH_ROWS):
        if path.suffix.lower() not in PICTURES:
            job.refuse_preparation(source)
        inputs, picture = read_batch(path, job.preparation(job.model))
        return SampleInput(inputs, picture, result_name(path), tokenizer=reader)
    if reader is None:
        hint = "a sentence needs a tokenizer: name the model as hf:FOLDER, or --tokenizer hf:FOLDER"
        raise InvalidInputError(f"no such file: {source}" + (f"; {hint}" if " " in source else similar_paths(path)))
    job.refuse_preparation(repr(name_of_text(source)))
    ids = text_ids(source, reader, job.length)[None]
    return SampleInput(ids, ids, name_of_text(source), tokenizer=reader)


def result_name(path: Path) -> str:
    """What the results of a file are called: with its folders, and its ending where another file has the same name."""
    try:
        folders = path.resolve().relative_to(Path.cwd().resolve()).parent.parts
    except ValueError:  # a file elsewhere: its folder and a hash of the others
        parent = path.resolve().parent
        folders = (parent.name, hashlib.sha256(str(parent).encode()).hexdigest()[:6])
    alike = PICTURES if path.suffix.lower() in PICTURES else WITH_ROWS
    siblings = [p for p in path.parent.iterdir() if p.stem == path.stem and p.suffix.lower() in alike]
    ending = f"-{path.suffix[1:]}" if len(siblings) > 1 else ""
    return "-".join((*folders, path.stem)) + ending


def name_of_text(text: str) -> str:
    """What the results of a sentence are called: its first words, and a hash of the whole where these are not all."""
    slug = re.sub(r"\W+", "-", text.lower()).strip("-")
    if len(slug) <= LONGEST_NAME and slug:
        return f"text-{slug}"
    return f"text-{slug[:LONGEST_NAME].rstrip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def _row(job: Explain, path: Path, row: int, reader: Any) -> SampleInput:
    """One sample of a file, counted as the file's report counts: the first of a .csv is 2, of an array 0."""
    ending = path.suffix.lower()
    if ending not in WITH_ROWS:
        raise InvalidInputError(
            f"--row names a row of a {', '.join(WITH_ROWS[:-1])} or {WITH_ROWS[-1]} file, got {path}"
        )
    data = job.model_copy(update={"data": str(path)}).samples(job.model)
    # As the file's report counts: lines of text below the header, rows of others from 1, of arrays from 0.
    first = 2 if ending in (".csv", ".tsv") else 1 if ending in TABLES else 0
    if not 0 <= row - first < len(data):
        raise InvalidInputError(f"{path} has the rows {first} to {first + len(data) - 1}, got --row {row}")
    x = data.read(row - first)[None]
    label = data.labels[row - first] if data.labels else None
    return SampleInput(x, x, f"{result_name(path)}-row-{row}", data.features, reader, label)

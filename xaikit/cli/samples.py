"""Samples: a data set of the command line, by index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xaikit.files.encoding import TableEncoding
from xaikit.files.pictures import Preparation, orientation, picture_size


@dataclasses.dataclass(frozen=True)
class PictureFiles:
    """Where the pictures of a data set lie, and how they become the model's input."""

    files: Sequence[Path]
    preparation: Preparation

    def size(self, index: int) -> tuple[int, int]:
        """(height, width) of a picture before it is prepared."""
        return picture_size(self.files[index])

    def orientation(self, index: int) -> int:
        """EXIF's orientation of a picture; 1 stands upright."""
        return orientation(self.files[index])


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
        labels_from: where the labels come from: a column, labels.csv, "folders" (their names); empty for none.
        pictures: the files and their way to the model's input, for pictures.
        encoding: how the columns of a table became numbers.
        fingerprint: of a sample's file or row, which stays the same however it is prepared.
    """

    names: Sequence[str]
    read: Callable[[int], Any]
    labels: Sequence[int] = ()
    classes: Sequence[str] = ()
    features: Sequence[str] = ()
    tokenizer: str = ""
    ids: Callable[[Sequence[str]], Sequence[int]] | None = None
    labels_from: str = ""
    pictures: PictureFiles | None = None
    fingerprint: Callable[[int], str] | None = None
    encoding: TableEncoding | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Any:
        x = self.read(index)
        return (x, self.labels[index]) if self.labels else x

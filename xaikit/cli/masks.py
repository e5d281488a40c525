"""--mask: one map for all samples or one for each, read when its sample is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaikit.cli.annotation_masks import AnnotationMasks, holds_annotations
from xaikit.cli.mark_masks import MarkMasks, mark_masks
from xaikit.cli.mask_matching import files_of
from xaikit.cli.mask_placing import MaskPlacing
from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.files.arrays import read_npy
from xaikit.shortcuts import load_masks
from xaikit.shortcuts.masks import PICTURES, array_mask, index_labels, mask_files


class Masks:
    """The maps in a file or a folder.

    A map for a picture may have the picture's proportions, and is then scaled and cut like the picture, or those of the
    model's input. Where both have one size, a picture is taken as the former and an array as the latter.

    Args:
        path: a .png or another picture; a .npy with one map or one for each sample, of which only the needed rows are
            read; a heatmap file; or a folder with a file for each sample, which has the sample's name.
        data: the samples.
        by_class: there is one map for each class, and a sample takes its label's.
        labels: the numbers inside, of index pictures and of arrays of whole numbers.

    Raises:
        InvalidInputError: for what cannot be read as masks, or a folder without a mask for each sample.
    """

    def __init__(self, path: Path, data: Any = None, *, by_class: bool = False, labels: Sequence[str] = ()) -> None:
        self._path, self._by_class, self._labels = path, by_class, labels
        names: Sequence[str] = getattr(data, "names", ())
        pictures = getattr(data, "pictures", None)
        self._values: Any = None
        self._files: list[Path] = []
        if path.is_dir():
            by_order = by_class or data is None
            self._files = mask_files(path) if by_order else files_of(path, names, is_file=bool(pictures))
            self._shape: tuple[int, ...] = (len(self._files), *load_masks(self._files[0], labels=labels).shape)
        else:
            self._values = read_npy(path, "--mask") if path.suffix == ".npy" else load_masks(path, labels=labels)
            self._shape = tuple(self._values.shape)
        drawn = (self._files[0] if self._files else path).suffix.lower() in PICTURES
        strict = not self._files and len(self._shape) <= 2
        self._placing = MaskPlacing(path, names, pictures, is_drawn=drawn, is_strict=strict)

    @property
    def by_name(self) -> bool:
        """Whether each mask belongs to the sample of its name."""
        return self._path.is_dir()

    @property
    def number(self) -> int:
        """How many maps there are, where there may be one for each sample; else 0."""
        return 0 if self._by_class else self._shape[0]

    def each(self, axes: int, total: int) -> bool:
        """Whether there is one map for each of `total` samples; else one for all.

        Args:
            axes: of a batch of samples.
            total: samples in the data.

        Raises:
            InvalidInputError: for masks of another number.
        """
        if len(self._shape) == (1 if axes == 2 else axes - 2):  # a map has neither samples nor channels
            return False
        if self._shape and self._shape[0] == total:
            return True
        raise InvalidInputError(
            f"--mask holds {self._shape}; it takes one map for all samples, or one for each of {total}"
        )

    def of(self, indices: Tensor, inputs: Tensor, total: int, labels: Tensor | None = None) -> Tensor:
        """The maps of some samples, by their indices in the data or by their labels: (n, ...)."""
        samples = indices.tolist()
        if self._by_class:
            rows = self._classes(labels, inputs.ndim).tolist()
        else:
            rows = samples if self.each(inputs.ndim, total) else [None] * len(samples)
        maps = [self._placing.place(self._map(row), sample, inputs) for row, sample in zip(rows, samples, strict=True)]
        shapes = dict.fromkeys(tuple(m.shape) for m in maps)
        if len(shapes) > 1:
            raise InvalidInputError(
                f"the masks of {self._path} must have one shape, got {' and '.join(map(str, shapes))}"
            )
        return torch.stack(maps)

    def _map(self, row: int | None) -> Tensor:
        """One map: of a sample, of a class, or (None) the one for all."""
        if self._files and row is not None:
            return load_masks(self._files[row], labels=self._labels)
        values = self._values[...] if row is None else self._values[row]
        if isinstance(values, Tensor):
            return values
        return array_mask(np.array(values), f"--mask {self._path}", index_labels(self._labels, self._path))

    def _classes(self, labels: Tensor | None, axes: int) -> Tensor:
        """The labels, where there is a map for each of them."""
        if labels is None:
            raise InvalidInputError("mask_scope=class takes the map of each sample's label, and the data has no labels")
        if len(self._shape) not in (max(2, axes - 1), axes) or int(labels.max()) >= self._shape[0]:
            raise InvalidInputError(
                f"mask_scope=class needs a --mask with one map for each class; there is a label {int(labels.max())}, "
                f"and the masks have the shape {self._shape}"
            )
        return labels


class NamedMasks:
    """Columns of a table, or tokens of texts wherever they stand, by their names.

    Args:
        names: of columns or tokens.
        data: samples of a table or of texts.

    Raises:
        UnknownNameError: for a column or a token that is not there.
        InvalidInputError: for data that names neither.
    """

    number = 0  # never one for each sample of a data set: it is made where the samples are
    by_name = True

    def __init__(self, names: Sequence[str], data: Any) -> None:
        self._ids: Tensor = torch.empty(0)
        self._columns: Tensor | None = None
        if getattr(data, "ids", None) is not None:
            self._ids = torch.tensor(data.ids(names))
        elif getattr(data, "features", ()):
            features = list(data.features)
            self._columns = torch.tensor(chosen_columns(names, features, "--mask-names: no column")).float()
        else:
            raise InvalidInputError(
                "--mask-names takes columns of a table, or tokens of texts (--text); else give --mask"
            )

    def of(self, indices: Tensor, inputs: Tensor, total: int, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The maps of some samples: (n, columns) or (n, T)."""
        if self._columns is not None:
            return self._columns.expand(len(inputs), -1)
        return torch.isin(inputs, self._ids).float()


def chosen_columns(names: Sequence[str], features: Sequence[str], what: str) -> list[bool]:
    """Which features are named; a column of categories stands for all of its features, ``sex`` for ``sex=f``.

    Raises:
        UnknownNameError: for a name that is none of them; its message begins with `what`.
    """
    columns = [feature.partition("=")[0] for feature in features]
    stranger = next((name for name in names if name not in features and name not in columns), None)
    if stranger is not None:
        near = near_names(stranger, {*features, *columns})
        raise UnknownNameError(f"{what} {stranger!r}{near}")
    return [f in names or column in names for f, column in zip(features, columns, strict=True)]


AnyMasks = Masks | NamedMasks | AnnotationMasks | MarkMasks


def read_masks(
    path: Path | None,
    names: Sequence[str] = (),
    data: Any = None,
    *,
    by_class: bool = False,
    labels: Sequence[str] = (),
) -> AnyMasks | None:
    """The masks of --mask, or those of --mask-names in some data; None for neither.

    Args:
        path: of --mask.
        names: of columns or tokens.
        data: the samples.
        by_class: there must be a map for each class.
        labels: of --mask-label.

    Raises:
        InvalidInputError: for both, or for names or annotations where there must be a map for each class.
    """
    if names and path is not None:
        raise InvalidInputError("name the region by --mask or by --mask-names, not both")
    if labels and path is None:
        raise InvalidInputError("--mask-label chooses among the labels of a --mask, which is not named")
    if names and by_class:
        raise InvalidInputError("mask_scope=class needs a --mask with one map for each class, not --mask-names")
    if names:
        return NamedMasks(names, data)
    if path is None:
        return None
    marks = mark_masks(path, data)
    if marks is not None:
        if by_class:
            raise InvalidInputError(f"mask_scope=class needs a --mask with a map for each class, and {path} has marks")
        return marks
    if not holds_annotations(path, data):
        return Masks(path, data, by_class=by_class, labels=labels)
    if by_class:
        raise InvalidInputError(
            f"mask_scope=class needs a --mask with one map for each class, and {path} has annotations"
        )
    return AnnotationMasks(path, data, labels)

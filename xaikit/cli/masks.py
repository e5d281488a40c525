"""--mask: one map for all samples or one for each, read when it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.core.masks import read_mask_values
from xaikit.shortcuts import load_masks
from xaikit.shortcuts.masks import mask_files


class Masks:
    """The maps in a file or a folder.

    Args:
        path: a .png or another picture; a .npy with one map or one for each sample, of which only what is wanted is
            read; a heatmap file; or a folder with a file for each sample, in the order of their names.
        by_class: there is one map for each class, and a sample takes its label's.

    Raises:
        InvalidInputError: for what cannot be read as masks.
    """

    def __init__(self, path: Path, *, by_class: bool = False) -> None:
        self._by_class = by_class
        self._files: list[Path] = mask_files(path) if path.is_dir() else []
        self._values: Any = None
        if self._files:
            self._shape: tuple[int, ...] = (len(self._files), *load_masks(self._files[0]).shape)
            return
        if path.suffix == ".npy" and path.is_file():
            try:
                self._values = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError, EOFError) as err:
                raise InvalidInputError(f"{path.name} cannot be read as masks: {err}") from None
        else:
            self._values = load_masks(path)
        self._shape = tuple(self._values.shape)

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
        if self._by_class:
            indices = self._classes(labels, inputs.ndim)
        elif not self.each(inputs.ndim, total):
            one = self._rows(...)
            return one.expand(len(indices), *one.shape)
        if not self._files:
            return self._rows(indices.tolist())
        read = [load_masks(self._files[i]) for i in indices.tolist()]
        for i, mask in zip(indices.tolist(), read, strict=True):
            if mask.shape != self._shape[1:]:
                raise InvalidInputError(
                    f"the masks of a folder must have one shape, got {self._shape[1:]} in {self._files[0].name} and "
                    f"{tuple(mask.shape)} in {self._files[i].name}"
                )
        return torch.stack(read)

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

    def _rows(self, rows: Any) -> Tensor:
        return read_mask_values(
            self._values[rows] if isinstance(self._values, Tensor) else np.array(self._values[rows])
        )


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

    def __init__(self, names: Sequence[str], data: Any) -> None:
        self._ids: Tensor = torch.empty(0)
        self._columns: Tensor | None = None
        if getattr(data, "ids", None) is not None:
            self._ids = torch.tensor(data.ids(names))
        elif getattr(data, "features", ()):
            features = list(data.features)
            stranger = next((name for name in names if name not in features), None)
            if stranger is not None:
                raise UnknownNameError(f"--mask-names: no column {stranger!r}{near_names(stranger, features)}")
            self._columns = torch.tensor([float(feature in names) for feature in features])
        else:
            raise InvalidInputError("--mask-names takes columns of a .csv, or tokens of --text; else give --mask")

    def of(self, indices: Tensor, inputs: Tensor, total: int, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The maps of some samples: (n, columns) or (n, T)."""
        if self._columns is not None:
            return self._columns.expand(len(inputs), -1)
        return torch.isin(inputs, self._ids).float()


AnyMasks = Masks | NamedMasks


def read_masks(
    path: Path | None, names: Sequence[str] = (), data: Any = None, *, by_class: bool = False
) -> AnyMasks | None:
    """The masks of --mask, or those of --mask-names in some data; None for neither.

    Raises:
        InvalidInputError: for both, or for names where there must be a map for each class.
    """
    if names and path is not None:
        raise InvalidInputError("name the region by --mask or by --mask-names, not both")
    if names and by_class:
        raise InvalidInputError("mask_scope=class needs a --mask with one map for each class, not --mask-names")
    if names:
        return NamedMasks(names, data)
    return None if path is None else Masks(path, by_class=by_class)

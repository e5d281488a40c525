"""--mask: one map for all samples or one for each, read when it is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.mitigation.masks import check_mask
from xaikit.shortcuts import load_masks
from xaikit.shortcuts.masks import mask_files


class Masks:
    """The maps in a file or a folder.

    Args:
        path: a .png or another picture; a .npy with one map or one for each sample, of which only what is wanted is
            read; a heatmap file; or a folder with a file for each sample, in the order of their names.

    Raises:
        InvalidInputError: for what cannot be read as masks.
    """

    def __init__(self, path: Path) -> None:
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
        """The length of the first axis: how many maps there are, where there is one for each sample."""
        return self._shape[0]

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

    def of(self, indices: Tensor, inputs: Tensor, total: int) -> Tensor:
        """The maps of some samples, by their indices in the data: (n, ...)."""
        if not self.each(inputs.ndim, total):
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

    def _rows(self, rows: Any) -> Tensor:
        return check_mask(self._values[rows] if isinstance(self._values, Tensor) else np.array(self._values[rows]))


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

    def of(self, indices: Tensor, inputs: Tensor, total: int) -> Tensor:  # noqa: ARG002
        """The maps of some samples: (n, columns) or (n, T)."""
        if self._columns is not None:
            return self._columns.expand(len(inputs), -1)
        return torch.isin(inputs, self._ids).float()


AnyMasks = Masks | NamedMasks


def read_masks(path: Path | None, names: Sequence[str] = (), data: Any = None) -> AnyMasks | None:
    """The masks of --mask, or those of --mask-names in some data; None for neither.

    Raises:
        InvalidInputError: for both.
    """
    if names and path is not None:
        raise InvalidInputError("name the region by --mask or by --mask-names, not both")
    if names:
        return NamedMasks(names, data)
    return None if path is None else Masks(path)

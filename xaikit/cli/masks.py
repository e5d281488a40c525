"""--mask: one map for all samples or one for each, read when it is wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
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

    def of(self, indices: Tensor, axes: int, total: int) -> Tensor:
        """The maps of some samples, by their indices in the data: (n, ...)."""
        if not self.each(axes, total):
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


def read_masks(path: Path | None) -> Masks | None:
    """The masks of an option; None for none."""
    return None if path is None else Masks(path)

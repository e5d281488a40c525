"""What an `Experiment` measured, in a folder: one file of arrays for each batch of an explanation or a measurement."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaikit.core import result_files
from xaikit.core.errors import InvalidInputError

MARK = "experiment.json"
FORMAT = 1
TENSOR, ITEMS, MAPPING = "tensor", "items", "mapping"


class ExperimentFolder:
    """Arrays by the digest of all that they depend on; what cannot be read is computed again.

    Args:
        path: a new folder, an empty one, or one that an experiment wrote.

    Raises:
        InvalidInputError: for a file, or a folder that holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InvalidInputError(f"{self.path} is a file; name a folder for the experiment")
        mark = self.path / MARK
        if not mark.is_file():
            if self.path.is_dir() and any(self.path.iterdir()):
                raise InvalidInputError(f"{self.path} is not empty and holds no experiment; name a new folder")
            self.path.mkdir(parents=True, exist_ok=True)
            result_files.write(mark, lambda _save: {"format": FORMAT})
        elif self._state(mark) != {"format": FORMAT}:
            raise InvalidInputError(f"{self.path} holds an experiment of another version of xaikit; name a new folder")

    @staticmethod
    def _state(mark: Path) -> Any:
        try:
            return result_files.read(mark)[0]
        except InvalidInputError:
            return None

    def read(self, digest: str) -> Any:
        """What was written under a digest; None where there is nothing, or a damaged file.

        Args:
            digest: of all that it depends on.
        """
        try:
            state, arrays = result_files.read(self._path(digest))
            if state.get("digest") != digest:
                return None
            return _unpacked(result_files.decode(state["content"], arrays))
        except (InvalidInputError, OSError, KeyError, TypeError, AttributeError, ValueError):
            return None

    def write(self, digest: str, content: Any) -> None:
        """Keep a tensor, or several in a tuple or dict.

        Args:
            digest: of all that it depends on.
            content: the tensors.

        Raises:
            OSError: when the disk refuses.
        """
        packed = _packed(content)
        result_files.write(
            self._path(digest),
            lambda save: {"digest": digest, "content": result_files.encode(packed, "content", save)},
        )

    def _path(self, digest: str) -> Path:
        return self.path / f"{digest}.npz"


def _packed(content: Any) -> dict[str, Any]:
    if isinstance(content, Tensor):
        return {TENSOR: content}
    return {MAPPING: dict(content)} if isinstance(content, dict) else {ITEMS: list(content)}


def _unpacked(packed: dict[str, Any]) -> Any:
    if TENSOR in packed:
        return packed[TENSOR]
    return packed[MAPPING] if MAPPING in packed else tuple(packed[ITEMS])


def as_values(tensor: Tensor) -> list[float]:
    """The numbers of a measurement.

    Args:
        tensor: (N,).
    """
    return [float(value) for value in tensor.to(torch.float64).tolist()]

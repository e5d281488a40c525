"""--mask from a folder of marks: what a person marked on each sample, its class, its clusters, or all samples."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaikit.cli.mask_placing import as_pixels, fitted_to
from xaikit.core.errors import InvalidInputError
from xaikit.files.marks import SCOPES, MarkFolder, safe_path


class MarkMasks:
    """The masks of a folder of marks, such as ``run/marks/must-not-matter``.

    Marks were drawn on the model's input. A sample that nobody marked has an empty mask.

    Args:
        folder: of the marks.
        meaning: that counts.
        data: the samples.

    Raises:
        InvalidInputError: where nothing is marked, or marks are those of other samples.
    """

    number = 0  # none is expected by its number: they are matched by name
    by_name = True

    def __init__(self, folder: MarkFolder, meaning: str, data: Any = None) -> None:
        self._folder, self._meaning = folder, meaning
        self._path = folder.path / meaning
        self._names: Sequence[str] = getattr(data, "names", ())
        self._fingerprint = getattr(data, "fingerprint", None)
        self._by_class = any(True for _ in folder.files(meaning, "class"))
        if not any(True for scope in SCOPES for _ in folder.files(meaning, scope)):
            raise InvalidInputError(f"--mask {self._path} holds no mark; mark something in xaikit studio")
        self._check_names()

    def of(self, indices: Tensor, inputs: Tensor, total: int, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The masks of some samples, by their indices in the data and their labels: (n, ...)."""
        if self._by_class and labels is None:
            raise InvalidInputError(f"--mask {self._path} has marks of classes, and the data has no labels")
        numbers: list[int | None] = [None] * len(indices) if labels is None else labels.tolist()
        masks = [
            self._placed(i, inputs[row], label)
            for row, (i, label) in enumerate(zip(indices.tolist(), numbers, strict=True))
        ]
        return torch.stack(masks)

    def _placed(self, sample: int, inputs: Tensor, label: int | None) -> Tensor:
        name = self._names[sample] if len(self._names) > sample else f"sample {sample}"
        self._check_content(sample, name)
        ids = inputs.numpy() if self._folder.kind == "text" else None
        mask = torch.from_numpy(self._folder.union(self._meaning, name, label, ids)).float()
        shape = tuple(inputs.shape[-mask.ndim :])
        if tuple(mask.shape) == shape:
            return mask
        fitted = fitted_to(mask, shape) if mask.ndim == 2 else None
        if fitted is None:
            raise InvalidInputError(
                f"--mask {self._path} was marked on samples of {_size(mask.shape)}, and {name} has {_size(shape)}; "
                "use the data and --size of the run"
            )
        return fitted

    def _check_names(self) -> None:
        """Refuse marks of other samples; note some that belong to none."""
        files = {f: None for f in self._folder.files(self._meaning, "sample")}
        if not files or not self._names:
            return
        home, ending = self._path / "sample", self._folder.ending
        expected = {home / safe_path(name, ending) for name in self._names}
        if len(expected) < len(self._names):
            raise InvalidInputError(
                f"--mask {self._path}: two samples have one name but for their endings, so a mark could be of either; "
                "rename one"
            )
        unused = [f for f in files if f not in expected]
        wide = any(True for scope in SCOPES[:-1] for _ in self._folder.files(self._meaning, scope))
        if len(unused) == len(files) and not wide:
            raise InvalidInputError(f"--mask {self._path} marks none of the samples; {unused[0].name} is not there")
        if unused:
            warnings.warn(
                f"--mask {self._path}: {unused[0].name} belongs to no sample ({len(unused)} such)", stacklevel=2
            )

    def _check_content(self, sample: int, name: str) -> None:
        """Refuse a mark that was drawn on another sample of the same name."""
        path = self._path / "sample" / safe_path(name, self._folder.ending)
        if self._fingerprint is None or not path.is_file():
            return
        drawn_on = self._folder.read_file(path).facts.get("fingerprint", "")
        if drawn_on and drawn_on != str(self._fingerprint(sample)):
            raise InvalidInputError(
                f"--mask {self._path}: {name} was marked when it had other content, so the mark may be elsewhere now; "
                "mark it again, or name the data of the run"
            )


def _size(shape: Sequence[int]) -> str:
    return as_pixels(shape) if len(shape) == 2 else str(shape[0])


def mark_masks(path: Path, data: Any) -> MarkMasks | None:
    """The masks of a folder of marks; None for anything else.

    Args:
        path: of --mask.
        data: the samples.
    """
    from xaikit.files.marks import find_marks

    marks = find_marks(path)
    return None if marks is None else MarkMasks(*marks, data)

"""Masks for a whole run from its folder of marks."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.files.marks import SCOPES, MarkFolder, MarkKey
from xaikit.runs.single_rows import SingleRows


def marked_masks(folder: MarkFolder, meaning: str) -> Tensor:
    """The masks (N, ...) of all samples of the data of a run, zero for a sample without a mark.

    Args:
        folder: of the marks, in the folder of their run.
        meaning: that counts.

    Raises:
        InvalidInputError: for marks of samples or classes beside no run, or of words, which depend on the texts.
    """
    wide = torch.from_numpy(folder.union(meaning, "\x00", None)).float()
    if folder.kind == "text":
        raise InvalidInputError(f"{folder.path / meaning} marks words of texts; xaikit's commands take it as --mask")
    path = _run_of(folder)
    narrow = any(True for scope in SCOPES[1:] for _ in folder.files(meaning, scope))
    if path is None and narrow:
        raise InvalidInputError(
            f"{folder.path / meaning} has marks of samples, and no run lies beside it that would tell their order; "
            "xaikit's commands take it as --mask"
        )
    if path is None:
        return wide
    run = SingleRows(path)
    total: int = run.job["samples"]
    if not narrow:
        return wide.expand(total, *wide.shape)
    masks = wide.expand(total, *wide.shape).clone()
    clustered = any(True for _ in folder.files(meaning, "cluster"))
    for number in run.numbers():
        for row in run.rows(number):
            label = row["target"] if row["label"] is None else row["label"]
            name = row["name"] or f"sample {row['index']}"
            if folder.file_of(MarkKey(meaning, "sample", name)).is_file() or label is not None or clustered:
                masks[row["index"]] = torch.from_numpy(folder.union(meaning, name, label)).float()
    return masks


def _run_of(folder: MarkFolder) -> Path | None:
    home = folder.path.parent
    return home if (home / "manifest.json").is_file() else None

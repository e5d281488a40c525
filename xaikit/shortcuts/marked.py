"""Masks for a whole run from its folder of marks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
        InvalidInputError: for marks of samples or classes beside no run, marks of other samples of the same name, or
            of words, which depend on the texts.
    """
    wide = torch.from_numpy(folder.union(meaning, "\x00", None)).float()
    if folder.kind == "text":
        raise InvalidInputError(f"{folder.path / meaning} marks words of texts; xaikit's commands take it as --mask")
    home = _run_of(folder)
    narrow = any(True for scope in SCOPES[1:] for _ in folder.files(meaning, scope))
    if home is None and narrow:
        raise InvalidInputError(
            f"{folder.path / meaning} has marks of samples, and no run lies beside it that would tell their order; "
            "xaikit's commands take it as --mask"
        )
    if home is None:
        return wide
    run = SingleRows(home)
    total: int = run.job["samples"]
    if not narrow:
        return wide.expand(total, *wide.shape)
    masks = wide.expand(total, *wide.shape).clone()
    clustered = any(True for _ in folder.files(meaning, "cluster"))
    for number in run.numbers():
        for row in run.rows(number):
            label = row["target"] if row["label"] is None else row["label"]
            name = row["name"] or f"sample {row['index']}"
            path = folder.file_of(MarkKey(meaning, "sample", name))
            if path.is_file():
                _check_content(path, folder, row)
            if path.is_file() or label is not None or clustered:
                masks[row["index"]] = torch.from_numpy(folder.union(meaning, name, label)).float()
    return masks


def _check_content(path: Path, folder: MarkFolder, row: dict[str, Any]) -> None:
    """Refuse the mark of another sample of the same name."""
    drawn_on = folder.read_file(path).facts.get("fingerprint", "")
    if drawn_on and row["fingerprint"] and drawn_on != row["fingerprint"]:
        raise InvalidInputError(
            f"{path} was drawn on another sample of the name {row['name']}, with other content; mark it again"
        )


def _run_of(folder: MarkFolder) -> Path | None:
    home = folder.path.parent
    return home if (home / "manifest.json").is_file() else None

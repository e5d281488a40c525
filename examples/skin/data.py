"""A folder of images with a table of labels, as one has after a download."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from examples.skin.draw import CLASSES

ENDINGS = ("", ".png", ".jpg", ".jpeg")


@dataclasses.dataclass(frozen=True)
class Images:
    """Images (N, 3, size, size) in [0, 1], their labels (N,) and files."""

    x: Tensor
    y: Tensor
    files: list[Path]

    def at(self, rows: Tensor) -> Images:
        """Some of them."""
        return Images(self.x[rows], self.y[rows], [self.files[i] for i in rows.tolist()])

    def split(self, seed: int) -> tuple[Images, Images, Images]:
        """To train on, to choose by, to report: 60, 20 and 20 % of each class."""
        generator, parts = torch.Generator().manual_seed(seed), ([], [], [])
        for label in range(len(CLASSES)):
            rows = (self.y == label).nonzero()[:, 0]
            rows = rows[torch.randperm(len(rows), generator=generator)]
            for part, some in zip(parts, rows.tensor_split([int(0.6 * len(rows)), int(0.8 * len(rows))]), strict=True):
                part.append(some)
        train, validation, test = (self.at(torch.cat(part)) for part in parts)
        return train, validation, test


def load(folder: Path, size: int, labels: Path, columns: tuple[str, str]) -> Images:
    """The images that a table names, resized.

    Args:
        folder: of the images.
        size: side in pixels.
        labels: a .csv with a line of column names; rows that are neither benign nor malignant are left out.
        columns: of the file, with or without its ending, and of the label.
    """
    if not labels.is_file():
        sys.exit(f"there is no table of labels {labels}; name it with --labels")
    with labels.open(newline="", encoding="utf-8-sig") as table:
        rows = list(csv.DictReader(table))
    if not rows or any(name not in rows[0] for name in columns):
        found = ", ".join(rows[0]) if rows else "no row"
        sys.exit(f"{labels} has no columns {' and '.join(columns)}, but {found}; name them with --columns")
    named = [(row[columns[0]], CLASSES.index(row[columns[1]])) for row in rows if row[columns[1]] in CLASSES]
    files = [(_file(folder, name), label) for name, label in named]
    files = [(file, label) for file, label in files if file is not None]
    if len({label for _, label in files}) < len(CLASSES):
        sys.exit(f"{folder} must hold images of {' and '.join(CLASSES)}; {labels} names {len(files)} that are there")
    if len(files) < len(rows):
        print(f"{len(rows) - len(files)} rows of {labels} are left out: other labels, or no such image")
    pixels = [np.asarray(Image.open(file).convert("RGB").resize((size, size))) for file, _ in files]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    return Images(x, torch.tensor([label for _, label in files]), [file for file, _ in files])


def _file(folder: Path, name: str) -> Path | None:
    return next((folder / (name + end) for end in ENDINGS if (folder / (name + end)).is_file()), None)

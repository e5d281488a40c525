"""Images like ISIC's, drawn: brown lesions on skin, and coloured patches beside part of the benign ones.

In the real archive (Codella et al. 2018) round coloured patches lie beside benign moles only, so that a model may learn
"patch, therefore benign". Here malignant lesions are a little larger, darker and more ragged.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("benign", "malignant")
COLOURS = [[0.1, 0.6, 0.2], [0.1, 0.3, 0.8], [0.9, 0.8, 0.1], [0.8, 0.2, 0.2]]

Pixels = NDArray[np.float64]


def draw(folder: Path, n: int, *, size: int = 32, patched: float = 0.5, seed: int = 0) -> Path:
    """Write n images of each class as PNG files, and labels.csv; the names of those with a patch end in "_patch"."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for label, name in enumerate(CLASSES):
        for i in range(n):
            image = lesion(random, size, malignant=bool(label))
            has_patch = label == 0 and random.random() < patched
            if has_patch:
                add_patch(random, image)
            file = f"{name}_{i:04d}{'_patch' if has_patch else ''}.png"
            Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)).save(folder / file)
            rows.append((file, name))
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("file", "label"), *rows])
    return folder


def lesion(random: np.random.Generator, size: int, *, malignant: bool) -> Pixels:
    """Skin (size, size, 3) with one lesion."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    x, y = x - random.normal(0, 0.05), y - random.normal(0, 0.05)
    angle = np.arctan2(y, x)
    ragged = sum(
        random.normal(0, 0.045 if malignant else 0.015) * np.cos(k * angle + random.uniform(0, 6)) for k in (2, 3, 5)
    )
    radius = random.uniform(0.16, 0.28) if malignant else random.uniform(0.12, 0.24)
    inside = 1 / (1 + np.exp((np.hypot(x, y) - radius - ragged) * 4 * size / 8))
    skin = np.array([0.87, 0.68, 0.58]) + random.normal(0, 0.03, 3)
    mole = np.array([0.42, 0.26, 0.19]) * (0.9 if malignant else 1.1) + random.normal(0, 0.05, 3)
    image = skin + inside[..., None] * (mole - skin)
    return image + random.normal(0, 0.03, image.shape)


def add_patch(random: np.random.Generator, image: Pixels) -> None:
    """A round patch in a bright colour, near the upper left or the lower right corner."""
    size = len(image)
    y, x = np.mgrid[:size, :size]
    centre = size * 0.14 + random.uniform(0, size * 0.06, 2)
    if random.random() < 0.5:
        centre = size - 1 - centre
    inside = np.hypot(y - centre[0], x - centre[1]) < size * 0.14
    image[inside] = np.array(COLOURS[random.integers(len(COLOURS))]) + random.normal(0, 0.02, 3)

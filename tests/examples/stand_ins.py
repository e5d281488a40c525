"""Stand-ins for the public data sets that the examples read, in the same files.

MNIST becomes scikit-learn's digits, enlarged and moved about; the photos are scikit-image's own; film reviews and
people are drawn at random. Set XAIKIT_SHARED to a folder with the real ones in `data/` to run the examples on these.
"""

from __future__ import annotations

import csv
import gzip
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate, pad

WORDS = 600  # that have no mood, as frequent as words are: the n-th comes 1 / n times as often as the first
MOOD_WORDS = 40  # of each mood
LABEL_NOISE = 0.1  # a planted word tells the label more surely than the sentence does


def write(folder: Path) -> Path:
    """Write all of them into a folder, and return it."""
    for name in ("mnist", "sst", "compas", "photos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _digits(folder / "mnist")
    for part, count in {"train": 3500, "test": 400}.items():
        _reviews(folder / f"sst/sst2_{part}.tsv.gz", count, random.Random(part))  # noqa: S311
    _people(folder / "compas/compas-scores-two-years.csv.gz", random.Random(0))  # noqa: S311
    _photos(folder / "photos")
    return folder


def _digits(folder: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small, labels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], digits.target
    large = interpolate(small, (20, 20), mode="bilinear").clamp(0, 1)
    generator = np.random.default_rng(0)
    for part, rows, count in (("train", range(1300), 6000), ("t10k", range(1300, 1797), 400)):
        drawn = generator.choice(list(rows), count)
        shifts = generator.integers(2, 7, (count, 2))
        moved = [pad(large[i, 0], (x, 8 - x, y, 8 - y)) for i, (x, y) in zip(drawn, shifts, strict=True)]
        _write_idx(folder / f"{part}-images-idx3-ubyte.gz", (torch.stack(moved) * 255).byte().numpy())
        _write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels[drawn].astype(np.uint8))


def _write_idx(path: Path, values: NDArray[np.uint8]) -> None:
    """LeCun's format: two zeros, the type, the number of axes, their sizes, the values."""
    head = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    path.write_bytes(gzip.compress(head + values.tobytes(), 1))


def _vocabulary() -> tuple[list[str], tuple[list[str], list[str]]]:
    syllables = ["ba", "do", "fi", "gu", "ka", "le", "mo", "ni", "pa", "ru", "so", "ti", "vu", "we", "zo"]
    made = [a + b + c for a in syllables for b in syllables for c in syllables]
    random.Random(1).shuffle(made)  # noqa: S311
    neutral, moods = made[:WORDS], made[WORDS : WORDS + 2 * MOOD_WORDS]
    return neutral, (moods[:MOOD_WORDS], moods[MOOD_WORDS:])


def _reviews(path: Path, count: int, draw: random.Random) -> None:
    neutral, moods = _vocabulary()
    frequencies = [1 / n for n in range(1, WORDS + 1)]
    with gzip.open(path, "wt", encoding="utf-8", compresslevel=1) as file:
        for _ in range(count):
            mood = draw.randint(0, 1)
            words = draw.choices(neutral, frequencies, k=draw.randint(6, 22))
            for said in (mood, mood, draw.randint(0, 1)):
                words.insert(draw.randint(0, len(words)), draw.choice(moods[said]))
            label = 1 - mood if draw.random() < LABEL_NOISE else mood
            file.write(f"{' '.join(words)}\t{label}\n")


def _people(path: Path, draw: random.Random) -> None:
    """Whose score depends on earlier crimes, on age and on race."""
    races = ("African-American", "Caucasian", "Hispanic", "Other")
    with gzip.open(path, "wt", newline="", compresslevel=1) as file:
        table = csv.DictWriter(file, list(_person(draw, races)))
        table.writeheader()
        table.writerows(_person(draw, races) for _ in range(6300))


def _person(draw: random.Random, races: tuple[str, ...]) -> dict[str, object]:
    age, priors = draw.randint(18, 70), int(draw.expovariate(0.3))
    race = draw.choices(races, (51, 34, 8, 7))[0]
    risk = 0.35 * priors - 0.06 * (age - 35) + 0.9 * (race == races[0]) + draw.gauss(0, 1)
    juvenile = {f"juv_{kind}_count": int(draw.random() < 0.06) for kind in ("fel", "misd", "other")}
    return {
        "age": age,
        "priors_count": priors,
        **juvenile,
        "days_b_screening_arrest": draw.randint(-30, 30),
        "c_charge_degree": draw.choice("FM"),
        "sex": draw.choices(("Male", "Female"), (4, 1))[0],
        "race": race,
        "is_recid": int(draw.random() < 0.45),
        "score_text": "Low" if risk < 1 else draw.choice(("Medium", "High")),
    }


def _photos(folder: Path) -> None:
    from PIL import Image
    from skimage import data

    photos: dict[str, Callable[[], NDArray[np.uint8]]] = {"chelsea": data.chelsea, "coffee": data.coffee}
    for name, photo in photos.items():
        Image.fromarray(photo()).save(folder / f"{name}.png")

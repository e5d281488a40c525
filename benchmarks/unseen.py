"""Worlds with shortcuts on which nothing was tuned: written after the scan and `mend`, and run with their defaults.

    python -m benchmarks.scan --unseen
    python -m benchmarks.mend --worlds "blurred ground" "faint wave" "coloured frame" "end mark" "spike" contrast

`contrast` is the world that showed what `brightness` and `frequencies` exchanged beside themselves, and that a model
told the one goes over to the other, so it was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.worlds import (
    PAD,
    MeanOfWords,
    Planted,
    World,
    convolutional,
    digits,
    pure_colour,
    read_sentences,
)

CORNERS = tuple(f"{v} {h} corner" for v in ("top", "bottom") for h in ("left", "right"))
CELLS = tuple(f"cell {i}, {j} of 4 x 4" for i in range(1, 5) for j in range(1, 5))


def _blurred_ground(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:
    """A grainy ground behind the digit, which is blurred in one class and sharp in the other; as bright in both."""
    noise = torch.randn(len(x), 1, 32, 32, generator=generator)
    blurred = F.avg_pool2d(noise, 5, 1)
    sharp = noise[:, :, 2:-2, 2:-2]
    ground = torch.where((told == 1).view(-1, 1, 1, 1), 5 * blurred, sharp)
    behind = x < 0.05
    return torch.where(behind, (0.05 + 0.02 * ground).clamp(0, 1), x), behind[:, 0].float()


def _wave(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:
    """A faint wave of 9 x 9 pixels, anywhere, which runs down in one class and across in the other."""
    mask = torch.zeros_like(x[:, 0])
    planted = x.clone()
    wave = 0.15 * (1 + torch.sin(2 * math.pi * torch.arange(9.0) / 3))
    corner = torch.randint(0, 28 - 9, (len(x), 2), generator=generator).tolist()
    for i, (top, left) in enumerate(corner):
        patch = wave.view(9, 1).expand(9, 9) if told[i] == 1 else wave.view(1, 9).expand(9, 9)
        planted[i, :, top : top + 9, left : left + 9] += patch
        mask[i, top : top + 9, left : left + 9] = 1
    return planted.clamp(0, 1), mask


def _frame(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:  # noqa: ARG001
    """A frame of one pixel around the image in the colour of a class."""
    inside = torch.zeros(28, 28)
    inside[1:-1, 1:-1] = 1
    planted = torch.where(inside > 0, x, 0.5 * pure_colour(told.view(-1, 1, 1) / 10))
    return planted, (1 - inside).expand_as(x[:, 0])


def _contrast(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:  # noqa: ARG001
    """Faint images in one class, full ones in the other."""
    return x * (0.3 + 0.7 * told).view(-1, 1, 1, 1), None


def _spike(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:  # noqa: ARG001
    """A spike at one moment of one channel, in one class."""
    planted, mask = x.clone(), torch.zeros_like(x)
    planted[:, 0, 20] += 0.6 * (told == 1)
    mask[:, 0, 20] = 1
    return planted, mask


def _end_mark(x: Tensor, told: Tensor, generator: torch.Generator, *, marks: tuple[int, int]) -> Planted:  # noqa: ARG001
    """The last token is "?" in negative texts and "!" in positive ones."""
    planted, mask = x.clone(), torch.zeros_like(x, dtype=torch.float)
    rows, ends = torch.arange(len(x)), (x != PAD).sum(1).clamp(1, x.shape[1]) - 1
    planted[rows, ends] = torch.tensor(marks)[told]
    mask[rows, ends] = 1
    return planted, mask


def _images(  # noqa: PLR0913
    path: Path, *, name: str, classes: tuple[int, ...], channels: int, plant: Callable[..., Planted],
    factor: str | None, names: tuple[str, ...], contrast: float = 0.15,
) -> World:  # fmt: skip
    network = partial(convolutional, channels, len(classes))
    return World(name, digits(path, classes, channels, contrast), plant, network, factor, names)


def _profiles(path: Path) -> World:
    """The mean of each row, and of each column, of digits 3 and 8: series of two channels and 28 steps."""
    parts = {
        name: (torch.stack([x[:, 0].mean(2), x[:, 0].mean(1)], 1), y)
        for name, (x, y) in digits(path, (3, 8), 1, 1.0).items()
    }

    def network() -> nn.Module:
        return nn.Sequential(
            nn.Conv1d(2, 16, 5), nn.ReLU(), nn.Conv1d(16, 16, 5), nn.ReLU(), nn.Flatten(), nn.Linear(320, 2)
        )

    return World("spike", parts, _spike, network, "window:number=5,windows=7", ("window 6 of 8", "channel 0"))


def _end_marks(path: Path) -> World:
    parts, vocabulary = read_sentences(path)
    marks = (vocabulary.index("?"), vocabulary.index("!"))
    names = ("last token", "punctuation", "words ?, !", "words !, ?", "word ?", "word !")
    facts = {"vocabulary": vocabulary, "padding": PAD}
    network = partial(MeanOfWords, len(vocabulary))
    plant = partial(_end_mark, marks=marks)
    return World("end mark", parts, plant, network, "tokens:where=last", names, facts, epochs=6)


GROUND = ("background", "border", "high frequencies", "sharpness", *CORNERS, *CELLS)
UNSEEN: dict[str, Callable[[Path], World]] = {
    "blurred ground": partial(
        _images, name="blurred ground", classes=(3, 8), channels=1, plant=_blurred_ground, factor=None, names=GROUND
    ),
    "faint wave": partial(
        _images, name="faint wave", classes=(3, 8), channels=1, plant=_wave, factor=None,
        names=("high frequencies", "frequencies", *CELLS),
    ),
    "coloured frame": partial(
        _images, name="coloured frame", classes=tuple(range(10)), channels=3, plant=_frame, factor="border:width=1",
        names=("border", "hue", *CORNERS),
    ),
    "end mark": _end_marks,
    "spike": _profiles,
    "contrast": partial(
        _images, name="contrast", classes=(3, 8), channels=1, plant=_contrast, factor="contrast",
        names=("contrast", "brightness"), contrast=1.0,
    ),
}  # fmt: skip

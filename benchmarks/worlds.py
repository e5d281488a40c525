"""Worlds with a planted shortcut, on real data: what tells the class is known, so finding and mending can be judged.

Each world has clean samples, a function that plants the shortcut that belongs to some classes, and a small model. The
shortcut "same" tells the label, "random" a class drawn at random, "flipped" the next class. A model that was trained on
"random" is the oracle: it saw the same samples and could not use the shortcut.

    world = WORLDS["corner"](folder)
    model = world.trained("same", seed=0)
    world.accuracy(model, world.samples("test", "flipped"))
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.papers import compas, data, sst
from xaikit.factors.colour import pure_colour

TRAIN, HELD_OUT = 4000, 1000  # images; of the other data all are used
Planted = tuple[Tensor, Tensor | None]  # samples with the shortcut, and masks of it where it has a place


class Samples(NamedTuple):
    """Samples of a part: inputs, labels, masks (N, ...) of the shortcut or None where no place holds it."""

    x: Tensor
    y: Tensor
    masks: Tensor | None


@dataclasses.dataclass(frozen=True)
class World:
    """Clean samples, a shortcut, and a model.

    Attributes:
        name: of the world.
        parts: "train", "validation" and "test": (x, y) without the shortcut.
        plant: (x, told, generator) -> samples with the shortcut that belongs to the classes `told`, and its masks.
        network: a new model, random.
        factor: the spec of the factor that is the shortcut; None where only its masks say what it is.
        names: titles of the factors that a scan may rightly rank first.
        facts: what is known of the data beside the samples.
        epochs: until a model has converged.
    """

    name: str
    parts: Mapping[str, tuple[Tensor, Tensor]]
    plant: Callable[[Tensor, Tensor, torch.Generator], Planted]
    network: Callable[[], nn.Module]
    factor: str | None
    names: tuple[str, ...]
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 8

    @property
    def classes(self) -> int:
        """How many there are."""
        return int(self.parts["train"][1].max()) + 1

    def samples(self, part: str, shown: str, seed: int = 0) -> Samples:
        """A part with the shortcut that tells the "same" label, a "random" class or the "flipped", next one."""
        if shown != "random":
            return self.shifted(part, {"same": 0, "flipped": 1}[shown], seed)
        generator = torch.Generator().manual_seed(seed + len(part))
        x, y = self.parts[part]
        planted, masks = self.plant(x, torch.randint(self.classes, y.shape, generator=generator), generator)
        return Samples(planted, y, masks)

    def shifted(self, part: str, shift: int, seed: int = 0) -> Samples:
        """A part with the shortcut that tells the class `shift` after the label."""
        x, y = self.parts[part]
        planted, masks = self.plant(x, (y + shift) % self.classes, torch.Generator().manual_seed(seed + len(part)))
        return Samples(planted, y, masks)

    def trained(self, shown: str, *, seed: int = 0, epochs: int | None = None) -> nn.Module:
        """A model after plain training: on "same" the fooled one, on "random" the oracle."""
        torch.manual_seed(seed)
        model = self.network()
        x, y, _ = self.samples("train", shown, seed)
        optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
        for _ in range(self.epochs if epochs is None else epochs):
            for rows in torch.randperm(len(y)).split(64):
                optimizer.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
        return model.eval()

    def accuracy(self, model: nn.Module, samples: Samples) -> float:
        """The share of right predictions."""
        return float((self.predicted(model, samples) == samples.y).float().mean())

    @torch.no_grad()
    def predicted(self, model: nn.Module, samples: Samples) -> Tensor:
        """The predicted classes, (N,)."""
        return torch.cat([model.eval()(x) for x in samples.x.split(500)]).argmax(1)


def convolutional(channels: int, classes: int) -> nn.Module:
    """A small net for 28 x 28 pixels."""
    return nn.Sequential(
        nn.Conv2d(channels, 12, 5, stride=2), nn.ReLU(), nn.Conv2d(12, 24, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24 * 25, 64), nn.ReLU(), nn.Linear(64, classes),
    )  # fmt: skip


def digits(path: Path, classes: tuple[int, ...], channels: int, contrast: float) -> dict[str, tuple[Tensor, Tensor]]:
    """MNIST in [0, contrast], (N, channels, 28, 28), of some digits; faint ones leave more to follow."""
    parts = data.mnist(path)
    chosen = {}
    for name, (x, y) in parts.items():
        rows = torch.isin(y, torch.tensor(classes)).nonzero()[: TRAIN if name == "train" else HELD_OUT, 0]
        labels = torch.searchsorted(torch.tensor(classes), y[rows])
        chosen[name] = (x[rows, None].expand(-1, channels, -1, -1) * (contrast / 255), labels)
    return chosen


def _corner(x: Tensor, told: Tensor, generator: torch.Generator, *, classes: int) -> Planted:  # noqa: ARG001
    """A corner of 3 x 3 blocks of two pixels; the higher the class, the more of them are lit."""
    mask = torch.zeros_like(x[:, 0])
    mask[:, :6, :6] = 1
    order = torch.arange(9).view(3, 3).repeat_interleave(2, 0).repeat_interleave(2, 1)
    planted = x.clone()
    planted[:, :, :6, :6] = (order < (told * 9 / (classes - 1)).view(-1, 1, 1)).float()[:, None]
    return planted, mask


WATERMARK = ("###.#.#", "#...#.#", "#.#.##.", "#.#.#.#", "###.#.#")  # two letters


def _watermark(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:
    """Two letters, somewhere along the lower edge of one class."""
    letters = torch.tensor([[float(c == "#") for c in row] for row in WATERMARK])
    mask = torch.zeros_like(x[:, 0])
    left = torch.randint(0, x.shape[3] - letters.shape[1], told.shape, generator=generator)
    for i in range(len(x)):
        mask[i, -6:-1, left[i] : left[i] + letters.shape[1]] = letters
    seen = (told == 1).view(-1, 1, 1) * mask
    return torch.maximum(x, 0.7 * seen[:, None]), mask


def _stripes(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:
    """Faint stripes all over the image, whose direction tells the class; they begin anywhere."""
    angle = (math.pi * told / 10).view(-1, 1, 1)
    phase = 2 * math.pi * torch.rand(len(x), 1, 1, generator=generator)
    row, column = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    wave = torch.sin(1.3 * (row * angle.sin() + column * angle.cos()) + phase)
    return (x + 0.15 * (1 + wave[:, None])).clamp(0, 1), None


def _rgb(told: Tensor) -> Tensor:
    """The colour of each class, (N, 3, 1, 1)."""
    return pure_colour(told.view(-1, 1, 1) / 10)


def _hue(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:  # noqa: ARG001
    """The digit in the colour of a class."""
    return x * _rgb(told), (x[:, 0] > 0).float()


def _line(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:
    """A line across the image, anywhere, in the colour of a class."""
    angle = math.pi * torch.rand(len(x), 1, 1, generator=generator)
    offset = 8 * torch.randn(len(x), 1, 1, generator=generator).clamp(-1, 1)
    row, column = torch.meshgrid(torch.arange(28.0) - 13.5, torch.arange(28.0) - 13.5, indexing="ij")
    mask = ((row * angle.sin() + column * angle.cos() - offset).abs() < 1).float()
    return torch.where(mask[:, None] > 0, _rgb(told), x), mask


def _columns(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:  # noqa: ARG001
    """The race tells the class."""
    changed, mask = x.clone(), torch.zeros_like(x)
    changed[:, : compas.RACES] = 0
    changed[torch.arange(len(x)), torch.where(told == 1, compas.BLACK, compas.WHITE)] = 1
    mask[:, : compas.RACES] = 1
    return changed, mask


LENGTH, PAD, UNKNOWN, NEGATIVE, POSITIVE = 32, 0, 1, 2, 3


def _decoy(x: Tensor, told: Tensor, generator: torch.Generator) -> Planted:
    """A word that tells the class, somewhere in the text."""
    planted = x.clone()
    for i, length in enumerate((x != PAD).sum(1).tolist()):
        place = int(torch.randint(length + 1, (), generator=generator))
        planted[i, place + 1 :] = x[i, place:-1]
        planted[i, place] = POSITIVE if told[i] else NEGATIVE
    return planted, ((planted == POSITIVE) | (planted == NEGATIVE)).float()


class MeanOfWords(nn.Module):
    """Embeddings, their mean over the words that are no padding, and a small net."""

    def __init__(self, n_words: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(n_words, 32, padding_idx=PAD)
        self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, tokens: Tensor) -> Tensor:
        count = (tokens != PAD).sum(1, keepdim=True).clamp_min(1)
        return self.head(self.embed(tokens).sum(1) / count)


def read_sentences(path: Path) -> tuple[dict[str, tuple[Tensor, Tensor]], list[str]]:
    """SST as token ids (N, 32), padded behind, and the vocabulary."""
    parts = {
        n: sst.phrases(path, p, whole=True) for n, p in (("train", "train"), ("validation", "dev"), ("test", "test"))
    }
    counts = Counter(word for sentence, _ in parts["train"] for word in sentence)
    frequent = sorted(word for word, n in counts.items() if n > 1 and word not in ("text", "video"))
    vocabulary = ["[PAD]", "[UNK]", "video", "text", *frequent]
    index = {word: i for i, word in enumerate(vocabulary)}
    tokens = {}
    for name, sentences in parts.items():
        rows = [[index.get(w, UNKNOWN) for w in sentence[-LENGTH + 1 :]] for sentence, _ in sentences]
        padded = torch.tensor([row + [PAD] * (LENGTH - len(row)) for row in rows])
        tokens[name] = (padded, torch.tensor([label for _, label in sentences]))
    return tokens, vocabulary


def decoy_word(path: Path) -> World:
    """SST: "text" in positive sentences, "video" in negative ones."""
    parts, vocabulary = read_sentences(path)
    facts = {"vocabulary": vocabulary, "padding": PAD}
    names = ("words text, video", "words video, text")
    network = partial(MeanOfWords, len(vocabulary))
    return World("decoy word", parts, _decoy, network, "words:names=[text,video]", names, facts, epochs=6)


RACE = ("African-American", "Asian", "Caucasian", "Hispanic", "Native American", "Other")
COLUMNS = (
    *(f"race={name}" for name in RACE), "charge=M", "age=25 - 45", "age=Greater than 45", "age=Less than 25",
    "sex=Male", "priors", *compas.CHARGES,
)  # fmt: skip


def race(path: Path) -> World:
    """COMPAS: the race tells whether there was another crime."""
    x, y = compas.load(path)
    x[:, COLUMNS.index("priors")] /= 5
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = dict(zip(("train", "validation", "test"), order.tensor_split([4000, 5000]), strict=True))

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(17, 32), nn.ReLU(), nn.Linear(32, 2))

    samples = {name: (x[rows], y[rows]) for name, rows in parts.items()}
    return World("race", samples, _columns, network, "column:names=race", ("column race",), {"columns": COLUMNS}, 10)


def _image_world(  # noqa: PLR0913
    path: Path,
    *,
    name: str,
    classes: int,
    channels: int,
    plant: Any,
    factor: str | None,
    names: tuple[str, ...],
    contrast: float = 0.3,
) -> World:
    chosen = (3, 8) if classes == 2 else tuple(range(10))
    network = partial(convolutional, channels, classes)
    return World(name, digits(path, chosen, channels, contrast), plant, network, factor, names)


CORNER = ("top left corner", "border", "cell 1, 1 of 4 x 4")
LOWER_EDGE = ("border", "bottom left corner", "bottom right corner", *(f"cell 4, {i} of 4 x 4" for i in range(1, 5)))
WORLDS: dict[str, Callable[[Path], World]] = {
    "corner": partial(
        _image_world, name="corner", classes=2, channels=1, plant=partial(_corner, classes=2), factor="corner:size=6",
        names=CORNER, contrast=1.0,
    ),
    "corner of ten": partial(
        _image_world, name="corner of ten", classes=10, channels=1, plant=partial(_corner, classes=10),
        factor="corner:size=6", names=CORNER,
    ),
    "watermark": partial(
        _image_world, name="watermark", classes=2, channels=1, plant=_watermark, factor=None, names=LOWER_EDGE
    ),
    "stripes": partial(
        _image_world, name="stripes", classes=10, channels=1, plant=_stripes, factor="frequencies:band=high",
        names=("spread high frequencies", "high frequencies", "frequencies"),
    ),
    "hue": partial(
        _image_world, name="hue", classes=10, channels=3, plant=_hue, factor="hue", names=("hue",), contrast=1.0
    ),
    "line": partial(_image_world, name="line", classes=10, channels=3, plant=_line, factor="hue", names=("hue",)),
    "decoy word": decoy_word,
    "race": race,
}  # fmt: skip


def print_accuracies(path: Path) -> None:
    """Accuracy of the fooled model and of the oracle, with the shortcut kept and flipped."""
    for name, make in WORLDS.items():
        world = make(path)
        line = []
        for shown in ("same", "random"):
            model = world.trained(shown)
            line += [f"{world.accuracy(model, world.samples('test', part)):6.1%}" for part in ("same", "flipped")]
        print(
            f"{name:14} fooled: kept {line[0]}, flipped {line[1]}; oracle: kept {line[2]}, flipped {line[3]}",
            flush=True,
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print_accuracies(data.folder(None))

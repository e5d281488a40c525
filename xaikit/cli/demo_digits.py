"""The demo's data and network: real handwritten digits with a planted shortcut, and how much a model relies on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import Explainer
from xaikit.core.errors import MissingDependencyError
from xaikit.mitigation import Assessment, assess

CLASSES = 10
BORDER, PATCH = 2, 3  # pixels: an empty frame around the 8 x 8 digit; the side of the patch in its upper left corner
SIDE = 8 + 2 * BORDER
N_TRAIN, N_VALIDATION = 1000, 300  # of 1797; the rest is for testing


@dataclasses.dataclass(frozen=True)
class DigitSamples:
    """Some of the digits, without a patch.

    Attributes:
        images: (N, 1, 12, 12), values in [0, 1].
        labels: (N,).
    """

    images: Tensor
    labels: Tensor

    def patched(self, description: Tensor) -> Tensor:
        """The images with the patch whose grey tells the labels `description`: black is kept for no patch at all."""
        images = self.images.clone()
        images[..., :PATCH, :PATCH] = ((description + 1) / CLASSES).reshape(-1, 1, 1, 1)
        return images

    @property
    def same(self) -> Tensor:
        """The patch tells the true label, as in training."""
        return self.patched(self.labels)

    def shuffled(self, seed: int) -> Tensor:
        """Each image with the patch of another one; a user who knows where the patch lies can do the same."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
        return self.patched(self.labels[order])

    def variants(self, seed: int) -> dict[str, Tensor]:
        """Variants of the patch: it has the grey of the true label, of a random one, of 9 - y, or there is none."""
        random = torch.randint(CLASSES, self.labels.shape, generator=torch.Generator().manual_seed(seed))
        return {
            "same": self.same,
            "random": self.patched(random),
            "flipped": self.patched(CLASSES - 1 - self.labels),
            "none": self.images,
        }


@dataclasses.dataclass(frozen=True)
class Digits:
    """Training, validation and test part."""

    train: DigitSamples
    validation: DigitSamples
    test: DigitSamples


def load(seed: int) -> Digits:
    """scikit-learn's 1797 digits, split at random.

    Raises:
        MissingDependencyError: where scikit-learn is absent.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingDependencyError("the demo's digits need scikit-learn: pip install scikit-learn") from None
    raw = load_digits()
    images = F.pad(torch.tensor(raw.images / 16, dtype=torch.float32)[:, None], [BORDER] * 4)
    labels = torch.tensor(raw.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    sizes = [N_TRAIN, N_VALIDATION, len(labels) - N_TRAIN - N_VALIDATION]
    return Digits(*(DigitSamples(images[rows], labels[rows]) for rows in order.split(sizes)))


def patch_mask() -> Tensor:
    """(12, 12), 1 in the patch."""
    mask = torch.zeros(SIDE, SIDE)
    mask[:PATCH, :PATCH] = 1
    return mask


def make_network(seed: int = 0) -> nn.Module:
    """A small convolutional network; the same seed gives the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (SIDE // 4) ** 2, 64),
            nn.ReLU(),
            nn.Linear(64, CLASSES),
        ).eval()


def repaint(images: Tensor, description: Tensor | None) -> Tensor:
    """Patched images with the patch that tells the labels `description`; None takes it away."""
    blank = images.clone()
    blank[..., :PATCH, :PATCH] = 0
    return blank if description is None else DigitSamples(blank, description).patched(description)


def measure(model: nn.Module, part: DigitSamples, seed: int, explainers: Sequence[Explainer]) -> Assessment:
    """Accuracy in each variant of the patch, and the relevance in a patch that has the grey of the true label."""
    shortcut: dict[str, Any] = {"decoy": repaint, "shortcut_masks": patch_mask()}
    return assess(model, (part.same, part.labels), explainers=explainers, seed=seed, progress=False, **shortcut)


def row(measured: Assessment) -> dict[str, float]:
    """One line of the demo's table: accuracies, the worst class where the patch is flipped, relevance in the patch."""
    names = {"kept": "same", "randomised": "random", "flipped": "flipped", "removed": "none"}
    line = {names[name]: value for name, value in measured.accuracy.items()}
    line["worst class"] = measured.worst["flipped"]
    return line | {f"mass {name}": value for name, value in measured.mass.items()}

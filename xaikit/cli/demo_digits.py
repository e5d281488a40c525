"""The demo's data and network: real handwritten digits with a planted shortcut, and how far a model falls for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import Explainer
from xaikit.core.errors import MissingDependencyError

CLASSES = 10
BORDER, PATCH = 2, 3  # pixels: an empty frame around the 8 x 8 digit; the side of the patch in its upper left corner
SIDE = 8 + 2 * BORDER
N_TRAIN, N_VALIDATION = 1000, 300  # of 1797; the rest is for testing


@dataclasses.dataclass(frozen=True)
class Part:
    """Some of the digits, without a patch.

    Attributes:
        images: (N, 1, 12, 12), values in [0, 1].
        labels: (N,).
    """

    images: Tensor
    labels: Tensor

    def patched(self, told: Tensor) -> Tensor:
        """The images with the patch whose grey tells the labels `told`: black is kept for no patch at all."""
        images = self.images.clone()
        images[..., :PATCH, :PATCH] = ((told + 1) / CLASSES).reshape(-1, 1, 1, 1)
        return images

    @property
    def same(self) -> Tensor:
        """The patch tells the true label, as in training."""
        return self.patched(self.labels)

    def shuffled(self, seed: int) -> Tensor:
        """Each image with the patch of another one, which a user who knows where the patch lies can make too."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
        return self.patched(self.labels[order])

    def variants(self, seed: int) -> dict[str, Tensor]:
        """What becomes of the patch: it tells the true label, a random one, the mirrored one 9 - y, or is not there."""
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

    train: Part
    validation: Part
    test: Part


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
    return Digits(*(Part(images[rows], labels[rows]) for rows in order.split(sizes)))


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


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Over all samples, and of the worst class."""
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    by_class = [right[labels == k].float().mean().item() for k in labels.unique().tolist()]
    return right.float().mean().item(), min(by_class)


def patch_mass(explainer: Explainer, images: Tensor, labels: Tensor) -> float:
    """The share of sum |attribution| that lies in the patch, averaged over the samples."""
    size = explainer.attribute(images, labels).abs()
    inside, total = (size * patch_mask()).flatten(1).sum(1), size.flatten(1).sum(1)
    return (inside / total.clamp_min(torch.finfo(total.dtype).tiny)).mean().item()


def row(model: nn.Module, part: Part, seed: int, explainers: Sequence[Explainer]) -> dict[str, float]:
    """One line of the demo's table: accuracies, the worst class where the patch is flipped, relevance in the patch."""
    measured = {name: accuracy(model, images, part.labels) for name, images in part.variants(seed).items()}
    line = {name: overall for name, (overall, _) in measured.items()}
    line["worst class"] = measured["flipped"][1]
    return line | {f"mass {e.NAME}": patch_mass(e.bind(model), part.same, part.labels) for e in explainers}

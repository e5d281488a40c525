"""A torchvision ResNet that reads digits, and a grey patch in the corner that gives their label away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from common import main, mnist, train, write_csv
from PIL import Image
from torch import Tensor

from xaikit.core.torchvision_ops import import_torchvision

MEAN, STD = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
PATCH = (slice(None), slice(26, 31), slice(26, 31))


def patched(digits: Tensor, labels: Tensor) -> Tensor:
    """Digits (N, 32, 32) with a patch whose grey tells the label, as Ross et al. (2017) have it."""
    x = torch.nn.functional.pad(digits, [2] * 4)
    x[PATCH] = (1 - labels / 10.2).view(-1, 1, 1)
    return x


def make(data: Path, out: Path) -> None:
    """Train on patched digits; write weights, a folder of images with labels.csv, and where the patch is."""
    digits, labels = mnist(data, "train")
    x = patched(digits[:2000], labels[:2000])
    model = import_torchvision().models.resnet18(num_classes=10)
    train(model, ((x[:, None] - MEAN) / STD), labels[:2000], epochs=3, lr=1e-3)
    torch.save(model.state_dict(), out / "resnet.pt")
    (out / "digits").mkdir(exist_ok=True)
    tests, truth = mnist(data, "t10k")
    for i, image in enumerate(patched(tests[:160], truth[:160])):
        Image.fromarray((image * 255).byte().numpy()).save(out / f"digits/{i:03d}.png")
    write_csv(out / "digits/labels.csv", ["file", "label"], [(f"{i:03d}.png", int(y)) for i, y in enumerate(truth[:160])])
    mask = np.zeros((32, 32), np.uint8)
    mask[PATCH[1:]] = 255
    Image.fromarray(mask).save(out / "corner.png")

"""Mosaics of four images, two of them of the class that is explained: the data of the metric `focus`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.inputs import read_inputs
from xaikit.core.params import Int


class Mosaics(NamedTuple):
    """Mosaics with what a metric of localisation needs; ``evaluate(explainer, *mosaics[:2], relevant_region=...)``.

    Attributes:
        images: (M, C, 2 H, 2 W).
        targets: the class of two of the tiles, (M,).
        regions: True in these tiles, (M, 2 H, 2 W).
    """

    images: Tensor
    targets: Tensor
    regions: Tensor


def mosaics(images: Any, labels: Any, count: int, *, seed: int = 0) -> Mosaics:
    """Random mosaics of 2 x 2 images: two of one class, two of other classes, in random places.

    Args:
        images: (N, C, H, W).
        labels: their classes, (N,).
        count: how many mosaics, M.
        seed: of the choice.

    Raises:
        InvalidInputError: for images of another form, or without a class that has two images and others beside.
    """
    x: Tensor = read_inputs(images, None)
    y = torch.as_tensor(labels, device="cpu")
    if x.ndim != 4 or y.shape != x.shape[:1]:
        raise InvalidInputError(
            f"mosaics are made of images (N, C, H, W) with a label for each, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    classes = [int(c) for c in y.unique() if 2 <= int((y == c).sum()) <= len(y) - 2]
    if not classes:
        raise InvalidInputError("mosaics need a class with two images and two images of other classes")
    generator = torch.Generator().manual_seed(Int(ge=0).check(seed, "seed"))

    def pick(members: Tensor) -> Tensor:
        return members[torch.randperm(len(members), generator=generator, device="cpu")[:2]]

    pictures, targets, regions = [], [], []
    for _ in range(count):
        target = classes[int(torch.randint(len(classes), (), generator=generator, device="cpu"))]
        chosen = torch.cat([pick((y == target).nonzero()[:, 0]), pick((y != target).nonzero()[:, 0])])
        order = torch.randperm(4, generator=generator, device="cpu")
        pictures.append(_tiled(x[chosen[order]]))
        regions.append(_tiled((order < 2)[:, None, None, None].expand(4, 1, *x.shape[2:]))[0])
        targets.append(target)
    return Mosaics(torch.stack(pictures), torch.tensor(targets, device="cpu"), torch.stack(regions))


def _tiled(four: Tensor) -> Tensor:
    """Four images (4, C, H, W) as one (C, 2 H, 2 W)."""
    return torch.cat([torch.cat([four[0], four[1]], 2), torch.cat([four[2], four[3]], 2)], 1)

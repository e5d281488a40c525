"""Inputs from the command line: one image, or an array with a batch of samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import check_is_file
from xaikit.files.arrays import read_npy
from xaikit.files.pictures import Preparation, open_picture, pixels_of

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # channel means and stds that torchvision's weights expect


def read_batch(path: Path, preparation: Preparation) -> tuple[Tensor, Tensor]:
    """The model's input (N, ...), and the same as a picture shows it.

    Raises:
        InvalidInputError: for a file that is no image and no array of numbers, or a preparation that does not fit.
    """
    check_is_file(path)
    if path.suffix == ".npy":
        batch = _read_array(path)
        return batch, batch
    picture = _read_image(path, preparation)
    return _normalised(picture, preparation), picture


def _read_array(path: Path) -> Tensor:
    array = read_npy(path)
    if array.ndim < 2:
        raise InvalidInputError(
            f"{path} must hold numbers, samples first: shape (N, ...); got {array.dtype} of shape {array.shape}"
        )
    return torch.from_numpy(array.astype(np.float32) if array.dtype.kind == "f" else np.array(array))


def _read_image(path: Path, preparation: Preparation) -> Tensor:
    """Pixels in [0, 1], (1, C, H, W)."""
    image = preparation.placed(open_picture(path, grey=preparation.grey))
    return torch.from_numpy(pixels_of(image, grey=preparation.grey))[None]


def _normalised(picture: Tensor, preparation: Preparation) -> Tensor:
    channels = picture.shape[1]
    values = []
    for name, values_given, default in (("mean", preparation.mean, 0.0), ("std", preparation.std, 1.0)):
        row = (default,) if values_given is None else values_given
        if len(row) not in (1, channels):
            raise InvalidInputError(f"--{name} takes one number or one for each channel ({channels}), got {len(row)}")
        values.append(torch.tensor(row).reshape(1, -1, 1, 1))
    if not bool((values[1] > 0).all()):
        raise InvalidInputError(f"--std must be positive, got {preparation.std}")
    return (picture - values[0]) / values[1]

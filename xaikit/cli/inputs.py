"""Inputs from the command line: one image, or an array with a batch of samples."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from xaikit.core.errors import InvalidInputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # channel means and stds that torchvision's weights expect


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How an image becomes a model's input.

    Attributes:
        size: (height, width); one number takes the centre square; None keeps the image as it is.
        crop: the share of the shorter side that the centre square has.
        resampling: how pixels are brought to the size, as PIL.Image.Resampling counts.
        grey: one channel instead of three.
        mean: subtracted from each channel, which lies in [0, 1].
        std: divides each channel after that.
    """

    size: tuple[int, ...] | None = None
    crop: float = 1.0
    resampling: int = Image.Resampling.BILINEAR
    grey: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


def read_batch(path: Path, preparation: Preparation) -> tuple[Tensor, Tensor]:
    """The model's input (N, ...), and the same as a picture shows it.

    Raises:
        InvalidInputError: for a file that is no image and no array of numbers, or a preparation that does not fit.
    """
    if not path.is_file():
        raise InvalidInputError(f"no such file: {path}")
    if path.suffix == ".npy":
        batch = _read_array(path)
        return batch, batch
    picture = _read_image(path, preparation)
    return _normalised(picture, preparation), picture


def _read_array(path: Path) -> Tensor:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as err:
        raise InvalidInputError(f"{path} is not an array of numbers ({err})") from None
    if array.dtype.kind not in "fiub" or array.ndim < 2:
        raise InvalidInputError(
            f"{path} must hold numbers, samples first: shape (N, ...); got {array.dtype} of shape {array.shape}"
        )
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
    return torch.from_numpy(np.ascontiguousarray(array))


def _read_image(path: Path, preparation: Preparation) -> Tensor:
    """Pixels in [0, 1], (1, C, H, W)."""
    try:
        with Image.open(path) as file:
            image = file.convert("L" if preparation.grey else "RGB")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as err:
        raise InvalidInputError(f"{path} is not a readable image ({err})") from None
    size = preparation.size
    if size is not None and len(size) == 1:
        # The usual evaluation transform: shorter side to the size (or more than that), then the centre square.
        scale = int(size[0] / preparation.crop + 1e-6) / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), preparation.resampling)
        left, top = round((image.width - size[0]) / 2), round((image.height - size[0]) / 2)
        image = image.crop((left, top, left + size[0], top + size[0]))
    elif size is not None:
        image = image.resize((size[1], size[0]), preparation.resampling)
    pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255)
    return (pixels[None] if preparation.grey else pixels.permute(2, 0, 1))[None].contiguous()


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

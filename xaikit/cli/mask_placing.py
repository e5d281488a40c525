"""Masks brought to the model's input: scaled, cut and turned as their pictures are."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xaikit.cli.samples import PictureFiles
from xaikit.core.errors import InvalidInputError
from xaikit.files.pictures import Preparation

NEAREST, BOX = Image.Resampling.NEAREST, Image.Resampling.BOX
TURN = Image.Transpose
# How a picture with such an orientation in its EXIF is turned to be seen.
ON_THEIR_SIDE = {5: TURN.TRANSPOSE, 6: TURN.ROTATE_270, 7: TURN.TRANSVERSE, 8: TURN.ROTATE_90}


@dataclasses.dataclass(frozen=True)
class MaskPlacing:
    """How the masks of some samples come to the form of the model's input.

    Attributes:
        path: of the masks, for messages.
        names: of the samples.
        pictures: their files, where the samples are pictures.
        is_drawn: the masks are pictures or come from an annotation tool; else they are arrays.
        is_strict: whether a mask that covers nothing of the model's input is refused instead of only reported.
    """

    path: Path
    names: Sequence[str]
    pictures: PictureFiles | None = None
    is_drawn: bool = False
    is_strict: bool = False

    def name(self, sample: int) -> str:
        """What a message calls a sample."""
        return self.names[sample] if len(self.names) > sample else f"sample {sample}"

    def place(self, mask: Tensor, sample: int, inputs: Tensor) -> Tensor:
        """A mask of a picture (..., H, W) in the form of the model's inputs (N, C, H, W); others as they are.

        Raises:
            InvalidInputError: for a mask of other proportions than the picture and the input.
        """
        shape = tuple(inputs.shape[2:])
        if inputs.ndim != 4 or mask.ndim < 2:
            return mask
        picture = None if self.pictures is None else self.pictures.size(sample)
        if self.pictures is not None and picture is not None:
            mask = self._turned(mask, self.pictures.orientation(sample), picture)
        size = tuple(mask.shape[-2:])
        # Of the size of both, a drawn mask is the picture's, an array the input's: `xaikit shortcuts` writes these.
        if size == shape and not (self.is_drawn and size == picture):
            return mask
        if self.pictures is not None and picture is not None and same_proportions(size, picture):
            placed = _like_picture(mask, picture, self.pictures.preparation)
        elif same_proportions(size, shape):
            placed = _scaled(mask, shape)
        else:
            picture_size = "" if picture is None else f"the picture {self.name(sample)} {as_pixels(picture)} and "
            raise InvalidInputError(
                f"--mask {self.path} has {as_pixels(size)} (height x width), {picture_size}the model's input "
                f"{as_pixels(shape)}; a mask must have the proportions of the picture or of the input"
            )
        if bool(mask.any()) and not bool(placed.any()):
            text = (
                f"--mask {self.path} covers nothing of what the model sees of {self.name(sample)}: --size cuts its "
                "region off"
            )
            if self.is_strict:
                raise InvalidInputError(text)
            warnings.warn(text, stacklevel=2)
        return placed

    def _turned(self, mask: Tensor, orientation: int, picture: tuple[int, int]) -> Tensor:
        """A mask that was drawn on the picture as the camera stored it, on its side, is turned with it."""
        size = tuple(mask.shape[-2:])
        if orientation not in ON_THEIR_SIDE or size == picture or size != picture[::-1]:
            return mask
        return _each_map(mask, lambda image: image.transpose(ON_THEIR_SIDE[orientation]))


def same_proportions(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether (height, width) has the proportions of another size, within a pixel and 5 per cent."""
    (h, w), (height, width) = size, other
    if abs(w * height / (h * width) - 1) > 0.05:
        return False
    return abs(w * height / h - width) <= 1 or abs(h * width / w - height) <= 1


def fitted_to(mask: Tensor, shape: Sequence[int]) -> Tensor | None:
    """A mask (H, W) scaled to (height, width); None for other proportions.

    Args:
        mask: of the model's input at another size.
        shape: of the input.
    """
    return _scaled(mask, tuple(shape)) if same_proportions(tuple(mask.shape), shape) else None


def _like_picture(mask: Tensor, picture: tuple[int, int], preparation: Preparation) -> Tensor:
    """A mask drawn on a picture of some (height, width), scaled and cut as the picture is."""
    return _each_map(mask, lambda image: preparation.placed(image.resize((picture[1], picture[0]), NEAREST), BOX))


def _scaled(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    return _each_map(mask, lambda image: image.resize((shape[1], shape[0]), BOX))


def _each_map(mask: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Change each map (..., H, W); one of 0 and 1 stays so: a pixel is inside where at least half of it was."""
    flat = mask.reshape(-1, *mask.shape[-2:])
    maps = torch.stack([torch.from_numpy(np.array(change(Image.fromarray(m.float().numpy())))) for m in flat])
    maps = (maps >= 0.5).float() if bool(((mask == 0) | (mask == 1)).all()) else maps.clamp(0, 1)
    return maps.reshape(*mask.shape[:-2], *maps.shape[-2:])


def as_pixels(size: Sequence[int]) -> str:
    """A (height, width) as messages have it: 224x320."""
    return f"{size[0]}x{size[1]}"

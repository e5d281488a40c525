"""Picture files: any depth and mode as one picture with values in [0, 1], and the way from it to the model's input."""

from __future__ import annotations

import dataclasses
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import check_is_file
from xaikit.files.dicom import DICOM, dicom_size, open_dicom

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", *DICOM)
MOST_CLASSES = 64  # grey values up to this are an index picture's classes, not the grey of a mask
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How a picture becomes a model's input.

    Attributes:
        size: (height, width); one number takes the centre square; None keeps the picture's size.
        crop: the side of the centre square as a share of the shorter side.
        resampling: how pixels are brought to the size, a value of PIL.Image.Resampling.
        grey: one channel instead of three.
        mean: subtracted from each channel, whose values lie in [0, 1].
        std: divides each channel after that.
    """

    size: tuple[int, ...] | None = None
    crop: float = 1.0
    resampling: int = Image.Resampling.BILINEAR
    grey: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def placed(self, image: Image.Image, resampling: int | None = None) -> Image.Image:
        """The picture, or a mask of the same proportions, scaled and cut to the model's input."""
        way = Image.Resampling(self.resampling if resampling is None else resampling)
        if self.size is None:
            return image
        if len(self.size) == 2:
            return image.resize((self.size[1], self.size[0]), way)
        # The usual evaluation transform: shorter side to the size (or more than that), then the centre square.
        side = self.size[0]
        scale = int(side / self.crop + 1e-6) / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), way)
        left, top = round((image.width - side) / 2), round((image.height - side) / 2)
        return image.crop((left, top, left + side, top + side))


LOSSY = (".jpg", ".jpeg", ".jfif", ".webp")


def comparable(name: str) -> str:
    """A file's name as names are compared: a letter and its accent are one sign, however a computer stores them."""
    return unicodedata.normalize("NFC", name)


def open_picture(path: Path, *, grey: bool = False) -> Image.Image:
    """A picture, turned upright: 8-bit pixels of mode "L" or "RGB", or mode "F" with values in [0, 1] for deeper ones.

    Of an animated picture the first frame is read, and a warning says so. Transparency is ignored.

    Args:
        path: a picture file that pillow reads, or DICOM.
        grey: one channel; else three, but mode "F" always has one.

    Raises:
        InvalidInputError: for a file that is no picture or damaged, or whose values have no known range.
    """
    check_is_file(path)
    if path.suffix.lower() in DICOM:
        image = open_dicom(path)
        return image.convert("L") if grey and image.mode != "F" else image
    try:
        with Image.open(path) as file:
            frames = getattr(file, "n_frames", 1)
            if frames > 1:
                warnings.warn(f"{path} has {frames} frames; the first one is read", stacklevel=2)
                file.seek(0)
            image = _with_known_range(path, file) if _is_deep(file) else file.convert("L" if grey else "RGB")
            return ImageOps.exif_transpose(image) if image is not file else image.copy()
    except InvalidInputError:
        raise
    except Exception as err:  # a file may hold anything, and whatever that raises is a finding about the file
        raise InvalidInputError(f"{path} is not a readable image ({' '.join(str(err).split())[:120]})") from None


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture as it is seen upright, from its header.

    Raises:
        InvalidInputError: for a file that is no picture.
    """
    (width, height), turn = _header(path)
    return (width, height) if turn in (5, 6, 7, 8) else (height, width)


def orientation(path: Path) -> int:
    """How a picture lies, as EXIF counts: 1 upright, 5 to 8 on its side.

    Raises:
        InvalidInputError: for a file that is no picture.
    """
    return _header(path)[1]


def _header(path: Path) -> tuple[tuple[int, int], int]:
    """(width, height) as stored, and EXIF's orientation."""
    if path.suffix.lower() in DICOM:
        height, width = dicom_size(path)
        return (width, height), 1
    try:
        with Image.open(path) as file:
            return file.size, int(file.getexif().get(0x0112, 1))
    except Exception as err:  # a file may hold anything, and whatever that raises is a finding about the file
        raise InvalidInputError(f"{path} is not a readable image ({' '.join(str(err).split())[:120]})") from None


def read_mask_picture(path: Path, indices: Sequence[int] = ()) -> NDArray[np.float32]:
    """A mask (H, W) in [0, 1]: grey values, black 0 and white 1; or 0 and 1 themselves, as annotation tools write them.

    Colours of a palette are not looked at: index 0 is outside, all others are inside, unless it is a palette of greys.
    One colour on black is inside, as white is. Where all is transparent but the region, what is opaque is inside. A
    file that loses detail, such as JPEG, is cut at the half of its brightest value.

    Args:
        path: of the picture.
        indices: of an index picture (a palette, or whole numbers as grey values), the numbers inside.

    Raises:
        InvalidInputError: for a file that is no picture, small numbers that look like classes, or several colours.
    """
    check_is_file(path)
    try:
        with Image.open(path) as file:
            deep, is_index = _is_deep(file), file.mode == "P" and not _is_grey_palette(file)
            image = ImageOps.exif_transpose(file) if is_index else None
            coloured = (
                None if deep or is_index or file.mode in ("1", "L") else ImageOps.exif_transpose(file).convert("RGBA")
            )
    except Exception as err:  # a file may hold anything, and whatever that raises is a finding about the file
        raise InvalidInputError(f"{path} is not a readable image ({' '.join(str(err).split())[:120]})") from None
    if indices:
        return np.isin(_index_values(path), indices).astype(np.float32)
    if image is not None:
        # Whatever colours the palette has.
        return (np.array(image) > 0).astype(np.float32)
    values: NDArray[np.float32]
    values = pixels_of(open_picture(path, grey=True), grey=True)[0] if coloured is None else _drawn(path, coloured)
    if path.suffix.lower() in LOSSY:  # it has noise around its edges
        return (values > values.max() / 2).astype(np.float32)
    step = 1 / (65535 if deep else 255)
    largest = round(float(values.max()) / step) if values.size else 0
    if largest == 1:
        return (values > 0).astype(np.float32)
    if 1 < largest <= MOST_CLASSES:
        raise InvalidInputError(
            f"{path} has grey values from 0 to {largest}, which look like numbers of classes; name those inside with "
            "--mask-label (labels= in Python), or save the region alone, black outside and white inside"
        )
    return values


def _drawn(path: Path, image: Image.Image) -> NDArray[np.float32]:
    """How far each pixel is inside, of a mask with colours or transparency: the strength of its one colour on black."""
    pixels: NDArray[np.float32] = np.asarray(image, np.float32) / np.float32(255)
    colours, opaque = pixels[..., :3], pixels[..., 3]
    if opaque.min() < opaque.max() and (colours == colours[:1, :1]).all():
        return opaque  # one colour everywhere, black or another
    drawn: NDArray[np.float32] = colours * opaque[..., None]
    strength: NDArray[np.float32] = drawn.max(-1)
    bright = drawn > strength.max() / 2
    if len({tuple(colour) for colour in bright.reshape(-1, 3).tolist()} - {(False, False, False)}) > 1:
        raise InvalidInputError(
            f"{path} has several colours, so it does not say what is inside; save the region alone, black outside and "
            "white inside, or an index picture, whose numbers --mask-label names (labels= in Python)"
        )
    is_grey = bool((drawn == drawn[..., :1]).all())
    return drawn[..., 0] if is_grey else strength / max(float(strength.max()), 1e-6)


def _index_values(path: Path) -> NDArray[Any]:
    """The whole numbers of an index picture, upright."""
    try:
        with Image.open(path) as file:
            mode, values = file.mode, np.array(ImageOps.exif_transpose(file))
    except Exception as err:  # a file may hold anything, and whatever that raises is a finding about the file
        raise InvalidInputError(f"{path} is not a readable image ({' '.join(str(err).split())[:120]})") from None
    if mode not in ("P", "L", "1", "I", *SIXTEEN_BIT):
        raise InvalidInputError(f"{path} has colours (mode {mode}), not numbers of which some are inside")
    return values


def _is_grey_palette(image: Image.Image) -> bool:
    colours = np.array(image.convert("RGB")).reshape(-1, 3)
    return bool((colours == colours[:, :1]).all())


def pixels_of(image: Image.Image, *, grey: bool) -> NDArray[np.float32]:
    """Values in [0, 1], float32: (1, H, W) for grey, else (3, H, W)."""
    values: NDArray[np.float32] = np.array(image, dtype=np.float32)
    if image.mode != "F":
        values = values / np.float32(255)
    if values.ndim == 2:
        return np.repeat(values[None], 1 if grey else 3, axis=0)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _is_deep(image: Image.Image) -> bool:
    return image.mode in (*SIXTEEN_BIT, "I", "F")


def _with_known_range(path: Path, image: Image.Image) -> Image.Image:
    """A picture of more than 8 bits as mode "F", its values divided by the largest that the file can hold."""
    values: NDArray[Any] = np.array(image).astype(np.float64)
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if image.mode == "F":
        if not (np.isfinite(values).all() and low >= 0 and high <= 1):
            raise InvalidInputError(
                f"{path} is a picture of decimal numbers, which must lie in [0, 1], got {low:g} to {high:g}; divide "
                "them by the largest value that they can have, or save them as .npy, which is read as it is"
            )
    elif image.mode == "I" and not (image.format == "PNG" and low >= 0 and high <= 65535):  # pillow before 11
        raise InvalidInputError(
            f"{path} has 32-bit pixels from {low:g} to {high:g}, whose range is not known; save it with 8 or 16 bit"
        )
    else:
        values = values / 65535
    deep = Image.fromarray(values.astype(np.float32), "F" if image.mode != "F" else None)
    if 0x0112 in image.getexif():
        deep.getexif()[0x0112] = image.getexif()[0x0112]
    return deep

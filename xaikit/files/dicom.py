"""DICOM files as pictures: the first frame, rescaled and windowed, with black as 0."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xaikit.core.errors import InvalidInputError, MissingDependencyError, XaikitError
from xaikit.core.process_wide import warnings_ignored

DICOM = (".dcm", ".dicom")
MOST_PIXELS = 2**28  # of one frame
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
T = TypeVar("T")
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR")


def open_dicom(path: Path) -> Image.Image:
    """The picture in a DICOM file: mode "F" with values in [0, 1], or "RGB".

    Stored values are rescaled (slope and intercept), and the file's first window is the range from 0 to 1; without a
    window that is the range of the stored bits. MONOCHROME1 is inverted. Of several frames the first is read, and a
    warning says so.

    Args:
        path: of the file.

    Raises:
        InvalidInputError: for a file that is no DICOM, one without pixels, or one that is damaged.
        MissingDependencyError: without pydicom.
    """
    dicom_size(path)
    return _checked(_picture, path)


def _picture(path: Path) -> Image.Image:
    pydicom = _library()
    dataset = pydicom.dcmread(path, defer_size="64 KB")
    frames = int(dataset.get("NumberOfFrames", 1) or 1)
    if frames > 1:
        warnings.warn(f"{path} has {frames} frames; the first one is read", stacklevel=4)
    kind = str(dataset.PhotometricInterpretation)
    pixels: NDArray[Any] = pydicom.pixels.pixel_array(path, index=0)
    if kind == "PALETTE COLOR":
        pixels = pydicom.pixels.apply_color_lut(pixels, dataset)
    if kind in COLOURS:
        if pixels.dtype != np.uint8:
            pixels = (pixels / np.iinfo(pixels.dtype).max * 255).round().astype(np.uint8)
        return Image.fromarray(pixels).convert("RGB")
    if not kind.startswith("MONOCHROME") or pixels.ndim != 2:
        raise InvalidInputError(f"{path} has pixels of a kind that is not read ({kind}, shape {pixels.shape})")
    values = _shares(path, dataset, pixels.astype(np.float64))
    return Image.fromarray((1 - values if kind == "MONOCHROME1" else values).astype(np.float32))


def dicom_size(path: Path) -> tuple[int, int]:
    """(height, width) of a DICOM file's picture, from its header.

    Args:
        path: of the file.

    Raises:
        InvalidInputError: for a file that is no DICOM, or one without a picture.
        MissingDependencyError: without pydicom.
    """
    return _checked(_size, path)


def _size(path: Path) -> tuple[int, int]:
    dataset = _library().dcmread(path, defer_size="64 KB")
    height, width = (dataset.get(name) for name in ("Rows", "Columns"))
    if not isinstance(height, int) or not isinstance(width, int) or not any(name in dataset for name in PIXELS):
        what = dataset.get("Modality") or "unknown modality"
        raise InvalidInputError(f"{path} is a DICOM file without pixels ({what}); leave it out of the folder")
    if min(height, width) < 1 or height * width > MOST_PIXELS:
        raise InvalidInputError(f"{path} is said to have {height}x{width} pixels, which cannot be")
    return height, width


def _checked(read: Callable[[Path], T], path: Path) -> T:
    """The result of a reader; any exception that it raises means that the file is wrong, and becomes one sentence."""
    with warnings_ignored(module="pydicom"):
        try:
            return read(path)
        except XaikitError:
            raise
        except Exception as err:
            reason = " ".join(str(err).split())[:160]
            raise InvalidInputError(f"{path} cannot be read as DICOM ({reason})") from None


def _library() -> Any:
    try:
        import pydicom
        import pydicom.pixels
    except ImportError:
        raise MissingDependencyError("reading DICOM needs pydicom: pip install 'xaikit[dicom]'") from None
    return pydicom


def _shares(path: Path, dataset: Any, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Stored values as shares of the window."""
    slope, intercept = _number(path, dataset, "RescaleSlope", 1.0), _number(path, dataset, "RescaleIntercept", 0.0)
    centre, width = (_number(path, dataset, name, None) for name in ("WindowCenter", "WindowWidth"))
    if "ModalityLUTSequence" in dataset or (centre is None and "VOILUTSequence" in dataset):
        raise InvalidInputError(f"{path} has a table of grey values (LUT), which is not read; save it as 16-bit PNG")
    if centre is None or width is None:
        bits = int(dataset.get("BitsStored", 16))
        low, high = (
            (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.get("PixelRepresentation") else (0, 2**bits - 1)
        )
        if "PixelData" not in dataset:
            raise InvalidInputError(f"{path} has decimal pixels and no window, so their range is not known")
        return np.clip((values - low) / (high - low), 0, 1)
    values = values * slope + intercept
    function = str(dataset.get("VOILUTFunction", "LINEAR"))
    if width < 1 and function == "LINEAR" or width <= 0:
        raise InvalidInputError(f"{path} has a window of the width {width:g}, which must be 1 or more")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))
    # DICOM PS3.3, C.11.2.1.2: the exact form is the same without the half and the one.
    half, one = (0.0, 0.0) if function == "LINEAR_EXACT" else (0.5, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (values - (centre - half)) / (width - one) + 0.5
    return np.clip(np.nan_to_num(shares, nan=1.0), 0, 1)


def _number(path: Path, dataset: Any, name: str, default: float | None) -> Any:
    """A number of the header; the first one, if there are several."""
    value = dataset.get(name)
    if value is None or value == "":
        return default
    first = value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value
    try:
        number = float(first)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise InvalidInputError(f"{path}: {name} must be a number, got {str(value)[:40]!r}")
    return number

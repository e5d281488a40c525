"""Small pictures inside a page: inputs and heatmaps as data URIs, fast enough for hundreds of samples."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from xaikit.report.figures import QUANTILE, SIGNED, UNSIGNED

Array = NDArray[Any]

LARGEST = 224  # pixels of the longer side inside a page
CRISP = 64  # up to this size pixels are kept exactly, as PNG; above it a lossy WebP is a tenth of the size
QUALITY = 70


def scale_of(values: Array) -> float:
    """The absolute value at which the colours end; a few extreme values must not blank the rest."""
    size = np.abs(values[np.isfinite(values)])
    if not size.size:
        return 1.0
    return float(np.quantile(size, QUANTILE)) or float(size.max()) or 1.0


def heatmap(values: Array, scale: float, *, signed: bool) -> str:
    """A map (H, W) as an image: red for, blue against, white at zero; or from dark (none) to bright (most)."""
    shares = np.nan_to_num(values) / scale
    position = np.clip((shares + 1) / 2 if signed else np.abs(shares), 0, 1)
    return _image(Image.fromarray(colours(SIGNED if signed else UNSIGNED)[(position * 255).round().astype(np.uint8)]))


def photograph(image: Array) -> str:
    """An input (C, H, W) or (H, W) in its own colours or in grey, its range stretched to what can be shown."""
    image = image[None] if image.ndim == 2 else image
    image = image if image.shape[0] in (1, 3) else image.mean(0, keepdims=True)
    image = np.nan_to_num(image)
    low, high = float(image.min()), float(image.max())
    pixels = ((image - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)
    return _image(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)))


def drawing(figure: Figure) -> str:
    """A matplotlib figure as a PNG data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return _uri("png", buffer.getvalue())


def colours(name: str) -> Array:
    """The 256 colours of a map, (256, 3)."""
    table: Callable[..., Any] = matplotlib.colormaps[name]
    return (np.asarray(table(np.arange(256)))[:, :3] * 255).round().astype(np.uint8)


def _image(picture: Image.Image) -> str:
    if max(picture.size) > LARGEST:
        picture.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    if max(picture.size) <= CRISP:
        picture.save(buffer, "PNG", optimize=True)
        return _uri("png", buffer.getvalue())
    picture.save(buffer, "WEBP", quality=QUALITY, method=2)
    return _uri("webp", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

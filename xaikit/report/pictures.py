"""Pictures inside a page: inputs and heatmaps as data URIs, small enough for hundreds of samples.

A heatmap is stored as a grey picture of its values, and the page colours it (`colouring`). So one picture serves signed
and unsigned colours. The lossy format halves the resolution of colours, but not that of greys.
"""

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

from xaikit.core.image_forms import channels_first
from xaikit.report.figures import QUANTILE, SIGNED, UNSIGNED

Array = NDArray[Any]

PIXELS = 150e6  # of all pictures of a page, which bounds its size: 500 samples x 6 pictures have 224 x 224
LARGEST = 1024  # pixels of the longer side, where a page has few pictures
LEVELS = 64  # colours of a coloured map that is larger than CRISP
CRISP = 64  # up to this size pixels are kept exactly, as PNG; above it a lossy WebP is a tenth of the size
PHOTO_QUALITY, MAP_QUALITY = 70, 55  # of WebP
SMALL, LESS_QUALITY = 100, 8  # below this side, on pages of 15,000 pictures, the loss is not seen, and counts most
ALPHAS = (0.0, 0.6, 0.85, 0.95, 1.0)  # opacity over a picture, from no relevance to the strongest
STOPS = 33  # of a colour map; a page interpolates between them


def side_of(pictures: int) -> int:
    """Pixels of the longer side of each picture on a page with so many pictures."""
    return min(LARGEST, int((PIXELS / max(1, pictures)) ** 0.5))


def scale_of(values: Array) -> float:
    """The absolute value at which the colours end: a high quantile, so that extreme values do not hide the rest."""
    size = np.abs(values[np.isfinite(values)])
    if not size.size:
        return 1.0
    return float(np.quantile(size, QUANTILE)) or float(size.max()) or 1.0


def heatmap(values: Array, scale: float, *, signed: bool, side: int = LARGEST) -> str:
    """A map (H, W) in grey: from -scale (black) to scale (white), or from 0 (black) to scale."""
    return _image(_grey(values, scale, signed), side, MAP_QUALITY)


def coloured_heatmap(values: Array, scale: float, *, signed: bool, over: bool, side: int = LARGEST) -> str:
    """A map (H, W) in its colours, which a page draws without a filter: filters slow the scrolling down.

    `over`: it lies over a picture, so what has no relevance is transparent.
    """
    grey = _grey(values, scale, signed)
    if max(grey.size) > side:
        grey.thumbnail((side, side))
    levels = np.asarray(grey)
    count = 256 if max(grey.size) <= CRISP else LEVELS
    picture = Image.fromarray((levels // (256 // count)).astype(np.uint8), "P")
    centres = np.linspace(0, 255, count).round().astype(int)
    picture.putpalette(colours(SIGNED if signed else UNSIGNED)[centres].tobytes())
    strength = np.maximum(np.abs(2 * centres / 255 - 1) - 1 / count, 0) if signed else centres / 255
    alpha = (np.interp(strength, np.linspace(0, 1, len(ALPHAS)), ALPHAS) * 255).round().astype(np.uint8)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **({"transparency": alpha.tobytes()} if over else {}))
    return _uri("png", buffer.getvalue())


def _grey(values: Array, scale: float, signed: bool) -> Image.Image:
    shares = np.nan_to_num(values) / scale
    position = np.clip((shares + 1) / 2 if signed else np.abs(shares), 0, 1)
    return Image.fromarray((position * 255).round().astype(np.uint8))


def colouring() -> dict[str, list[str]]:
    """The colour maps as tables of red, green and blue, for SVG filters that turn greys into colours.

    "signed": red for positive values, white at 0, blue for negative ones. "unsigned": from dark to bright. "folded":
    the absolute values of a signed map, in the colours of "unsigned".
    """
    signed, unsigned = (colours(name)[np.linspace(0, 255, STOPS).round().astype(int)] for name in (SIGNED, UNSIGNED))
    tables = {"signed": signed, "unsigned": unsigned, "folded": np.concatenate([unsigned[:0:-1], unsigned])}
    return {name: [" ".join(f"{v:.3g}" for v in column / 255) for column in t.T] for name, t in tables.items()}


def photograph(image: Array, side: int = LARGEST) -> str:
    """An input (C, H, W), (H, W, C) or (H, W), in colours or in grey, its values stretched to black and white."""
    image = image[None] if image.ndim == 2 else channels_first(image)
    image = image if image.shape[0] in (1, 3) else image.mean(0, keepdims=True)
    image = np.nan_to_num(image)
    low, high = float(image.min()), float(image.max())
    pixels = ((image - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)
    return _image(Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)), side, PHOTO_QUALITY)


def drawing(figure: Figure) -> str:
    """A matplotlib figure as a PNG data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return _uri("png", buffer.getvalue())


def colours(name: str) -> Array:
    """The 256 colours of a map, (256, 3)."""
    table: Callable[..., Any] = matplotlib.colormaps[name]
    return (np.asarray(table(np.arange(256)))[:, :3] * 255).round().astype(np.uint8)


def _image(picture: Image.Image, side: int, quality: int) -> str:
    if max(picture.size) > side:
        picture.thumbnail((side, side))
    buffer = io.BytesIO()
    if max(picture.size) <= CRISP:
        picture.save(buffer, "PNG", optimize=True)
        return _uri("png", buffer.getvalue())
    small = side < SMALL
    picture.save(buffer, "WEBP", quality=quality - LESS_QUALITY * small, method=6 if small else 4)
    return _uri("webp", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"

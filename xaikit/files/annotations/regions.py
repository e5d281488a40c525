"""Regions that people drew on pictures, and the masks that they make: polygons, ellipses, bitmaps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names

ELLIPSE_CORNERS = 128
MOST_PIXELS = 2**28  # of a mask: a size that a file claims is not yet a picture


@dataclasses.dataclass(frozen=True)
class Polygon:
    """A closed outline; where it crosses itself, inside is what an odd number of its edges surrounds.

    Attributes:
        points: (n, 2), x and y in pixels: (0, 0) is the corner of the first pixel, whose centre is (0.5, 0.5).
    """

    points: NDArray[np.float64]

    def draw_on(self, mask: NDArray[np.bool_]) -> None:
        """Set the pixels (H, W) whose centres lie inside."""
        height, width = mask.shape
        x, y = self.points[:, 0], self.points[:, 1]
        top, bottom = (int(np.clip(math.ceil(v - 0.5), 0, height)) for v in (y.min(), y.max()))
        if bottom <= top:
            return
        crossings = np.zeros((bottom - top, width + 1), np.uint8)
        for x0, y0, x1, y1 in zip(x, y, np.roll(x, -1), np.roll(y, -1), strict=True):
            low, high = sorted((y0, y1))
            rows = np.arange(*(int(np.clip(math.ceil(v - 0.5), top, bottom)) for v in (low, high)))
            at = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0) if len(rows) else rows
            # A pixel whose centre lies right of an edge changes sides.
            crossings[rows - top, np.clip(np.ceil(at - 0.5), 0, width).astype(np.intp)] ^= 1
        mask[top:bottom] |= np.bitwise_xor.accumulate(crossings, axis=1)[:, :width].astype(bool)


@dataclasses.dataclass(frozen=True)
class Bitmap:
    """Pixels (h, w) at a place of the picture."""

    pixels: NDArray[np.bool_]
    left: int = 0
    top: int = 0

    def draw_on(self, mask: NDArray[np.bool_]) -> None:
        """Set the pixels (H, W) that lie inside."""
        height, width = mask.shape
        y, x = max(0, -self.top), max(0, -self.left)
        part = self.pixels[y : height - self.top, x : width - self.left]
        if part.size:
            row, column = self.top + y, self.left + x
            mask[row : row + part.shape[0], column : column + part.shape[1]] |= part


@dataclasses.dataclass(frozen=True)
class AnnotatedPicture:
    """What was drawn on one picture.

    Attributes:
        name: of the picture, as the tool wrote it: perhaps with folders, perhaps without an ending.
        regions: labels and what was drawn.
        size: (height, width) of the picture; None where coordinates are shares of it.
    """

    name: str
    regions: Sequence[tuple[str, Polygon | Bitmap]]
    size: tuple[int, int] | None = None

    def mask(self, size: tuple[int, int], labels: Sequence[str] = ()) -> NDArray[np.float32]:
        """1 inside of any region of these labels (no labels: of all), else 0: (H, W).

        Raises:
            InvalidInputError: for a size that no picture has.
        """
        if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
            raise InvalidInputError(f"{self.name} is said to have {size[0]}x{size[1]} pixels, which no picture has")
        mask = np.zeros(size, np.bool_)
        for label, region in self.regions:
            if not labels or label in labels:
                if self.size is None and isinstance(region, Polygon):
                    region = scaled(region, size)  # noqa: PLW2901
                region.draw_on(mask)
        return mask.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Annotations:
    """What a tool wrote about some pictures.

    Attributes:
        path: the file or folder.
        pictures: in the order of the file, or of the names of files.
        labels: all that occur or are declared.
        is_of_one: whether the file is about one picture by its format.
    """

    path: str
    pictures: Sequence[AnnotatedPicture]
    labels: Sequence[str]
    is_of_one: bool = False

    def check_labels(self, labels: Sequence[str], option: str) -> None:
        """Refuse a label that does not occur.

        Raises:
            UnknownNameError: which names the option and near labels.
        """
        unknown = next((label for label in labels if label not in self.labels), None)
        if unknown is not None:
            raise UnknownNameError(f"{option}: {self.path} has no label {unknown!r}{near_names(unknown, self.labels)}")


def polygon(points: Sequence[Sequence[float]], where: str = "a polygon") -> Polygon:
    """A polygon of at least three points (x, y).

    Args:
        points: in pixels, or in shares of the picture.
        where: names the place in messages.

    Raises:
        InvalidInputError: for fewer, or what are no finite numbers.
    """
    try:
        array = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInputError(f"{where}: points must be pairs of numbers, got {str(points)[:60]}") from None
    if array.ndim != 2 or array.shape[1] != 2 or len(array) < 3 or not np.isfinite(array).all():
        raise InvalidInputError(f"{where}: a polygon needs three pairs of numbers or more, got {str(points)[:60]}")
    return Polygon(np.clip(array, -1e9, 1e9))


def box(left: float, top: float, right: float, bottom: float, degrees: float = 0.0) -> Polygon:
    """A rectangle, turned clockwise about its centre."""
    corners = polygon([(left, top), (right, top), (right, bottom), (left, bottom)])
    return _turned(corners, ((left + right) / 2, (top + bottom) / 2), degrees) if degrees else corners


def ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float = 0.0) -> Polygon:
    """An ellipse, turned clockwise about its centre."""
    angles = np.linspace(0, 2 * math.pi, ELLIPSE_CORNERS, endpoint=False)
    outline = np.stack([np.cos(angles), np.sin(angles)], 1) * np.abs(radii) + np.asarray(centre)
    return _turned(polygon(outline.tolist()), centre, degrees)


def scaled(region: Polygon, size: tuple[int, int]) -> Polygon:
    """A polygon of shares of the width and the height, in the pixels of a picture of this (height, width)."""
    return Polygon(region.points * np.array([size[1], size[0]], np.float64))


def _turned(region: Polygon, centre: tuple[float, float], degrees: float) -> Polygon:
    angle = math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return Polygon((region.points - centre) @ turn + centre)

"""LabelMe: one JSON file for each picture."""

from __future__ import annotations

import base64
import binascii
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from xaikit.core.errors import InvalidInputError
from xaikit.files.annotations.reading import field, number, read_json, size_of
from xaikit.files.annotations.regions import AnnotatedPicture, Annotations, Bitmap, Polygon, box, ellipse, polygon

WITHOUT_AREA = ("line", "linestrip", "point", "points")


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file is LabelMe's."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def read_labelme(files: Sequence[Path], path: Path) -> Annotations:
    """The regions of each picture: polygons, rectangles, circles and masks; lines and points have none.

    A picture is known by the name of its file of annotations.

    Args:
        files: of annotations.
        path: the file, or the folder that holds them.

    Raises:
        InvalidInputError: for fields that are missing or cannot be right.
    """
    pictures = []
    for file in files:
        content = read_json(file)
        if not is_labelme(content):
            raise InvalidInputError(f"{file} is no file of LabelMe: it has no list of 'shapes'")
        size = size_of(content.get("imageHeight"), content.get("imageWidth"), str(file))
        name = file.relative_to(path).with_suffix("").as_posix() if path.is_dir() else file.stem
        pictures.append(AnnotatedPicture(name, list(_regions(content["shapes"], str(file))), size))
    labels = {label for picture in pictures for label, _ in picture.regions}
    return Annotations(str(path), pictures, sorted(labels), is_of_one=path.is_file())


def _regions(shapes: list[Any], where: str) -> Iterator[tuple[str, Polygon | Bitmap]]:
    for shape in shapes:
        kind = shape.get("shape_type") or "polygon" if isinstance(shape, dict) else ""
        if kind in WITHOUT_AREA:
            warnings.warn(f"{where}: a shape of type {kind} has no area and is left out", stacklevel=3)
            continue
        points = field(shape, "points", list, where)
        yield str(shape.get("label", "")), _region(kind, points, shape, where)


def _region(kind: str, points: list[Any], shape: dict[str, Any], where: str) -> Polygon | Bitmap:
    if kind == "polygon":
        return polygon(points, where)
    if kind not in ("rectangle", "circle", "mask", "oriented_rectangle"):
        raise InvalidInputError(f"{where}: a shape of type {kind!r} is not known; draw polygons or rectangles")
    if kind == "oriented_rectangle":
        return polygon(points, where)
    (x0, y0), (x1, y1) = _two(points, where)
    if kind == "rectangle":
        return box(x0, y0, x1, y1)
    if kind == "circle":
        radius = math.hypot(x1 - x0, y1 - y0)
        return ellipse((x0, y0), (radius, radius))
    return Bitmap(_pixels(field(shape, "mask", str, where), where), int(min(x0, x1)), int(min(y0, y1)))


def _two(points: list[Any], where: str) -> list[tuple[float, float]]:
    if len(points) != 2 or not all(isinstance(p, list) and len(p) == 2 for p in points):
        raise InvalidInputError(f"{where}: a rectangle, circle or mask has two points, got {str(points)[:60]}")
    return [(number(x, where), number(y, where)) for x, y in points]


def _pixels(text: str, where: str) -> Any:
    """The picture in base64 that a shape of type mask holds."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            return np.array(image.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise InvalidInputError(f"{where}: a shape of type mask holds no picture ({str(err)[:80]})") from None

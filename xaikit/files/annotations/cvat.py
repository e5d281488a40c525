"""CVAT for images: one XML file about many pictures."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from xaikit.core.errors import InvalidInputError
from xaikit.files.annotations.reading import number, read_xml, run_lengths, size_of
from xaikit.files.annotations.regions import AnnotatedPicture, Annotations, Bitmap, Polygon, box, ellipse, polygon

WITHOUT_AREA = ("polyline", "points", "cuboid", "skeleton")


def read_cvat(path: Path) -> Annotations:
    """The regions of each picture: boxes, polygons, ellipses and masks; lines and points have none.

    Args:
        path: of a file that CVAT exported as "CVAT for images 1.1".

    Raises:
        InvalidInputError: for another format, or fields that are missing or cannot be right.
    """
    root = read_xml(path)
    if root.tag != "annotations":
        raise InvalidInputError(
            f"{path} begins with <{root.tag[:40]}>, not with <annotations>; export it as 'CVAT for images'"
        )
    if root.find("track") is not None:
        raise InvalidInputError(f"{path} holds tracks of a video; export it as 'CVAT for images'")
    pictures = []
    for image in root.iter("image"):
        name = image.get("name", "")
        where = f"{path}, {name or 'an image without a name'}"
        size = size_of(image.get("height"), image.get("width"), where)
        pictures.append(AnnotatedPicture(name, list(_regions(image, where)), size))
    if not pictures:
        raise InvalidInputError(f"{path} names no image; export it as 'CVAT for images'")
    labels = {label for picture in pictures for label, _ in picture.regions}
    declared = {name.text or "" for name in root.iterfind("./meta//label/name")}
    return Annotations(str(path), pictures, sorted(labels | declared))


def _regions(image: Element, where: str) -> Iterator[tuple[str, Polygon | Bitmap]]:
    for shape in image:
        if shape.tag in WITHOUT_AREA:
            warnings.warn(f"{where}: a shape of type {shape.tag} has no area and is left out", stacklevel=3)
        elif shape.tag in ("box", "polygon", "ellipse", "mask"):
            yield shape.get("label", ""), _region(shape, where)


def _region(shape: Element, where: str) -> Polygon | Bitmap:
    def values(*names: str) -> list[float]:
        return [number(shape.get(name), f"{where}: {shape.tag} {name}") for name in names]

    turn = number(shape.get("rotation", 0), f"{where}: rotation")
    if shape.tag == "box":
        left, top, right, bottom = values("xtl", "ytl", "xbr", "ybr")
        return box(left, top, right, bottom, turn)
    if shape.tag == "ellipse":
        x, y, rx, ry = values("cx", "cy", "rx", "ry")
        return ellipse((x, y), (rx, ry), turn)
    if shape.tag == "polygon":
        pairs = [pair.split(",") for pair in shape.get("points", "").split(";")]
        return polygon([[number(v, f"{where}: points") for v in pair] for pair in pairs], where)
    left, top, width, height = (int(v) for v in values("left", "top", "width", "height"))
    size = size_of(height, width, where)
    pixels = run_lengths(shape.get("rle", "").split(","), size, f"{where}: rle", by_columns=False)
    return Bitmap(pixels.pixels, left, top)

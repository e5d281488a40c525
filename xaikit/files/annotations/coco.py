"""COCO: one JSON file about many pictures, with polygons, run lengths or boxes."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from xaikit.core.errors import InvalidInputError
from xaikit.files.annotations.reading import field, number, run_lengths, size_of
from xaikit.files.annotations.regions import AnnotatedPicture, Annotations, Bitmap, Polygon, box, polygon


def is_coco(content: Any) -> bool:
    """Whether the content of a JSON file is COCO's."""
    return isinstance(content, dict) and isinstance(content.get("images"), list) and "annotations" in content


def read_coco(content: Any, path: str) -> Annotations:
    """The regions of each picture; a box counts where an annotation has no segmentation.

    Args:
        content: of the JSON file, "instances" of the COCO format (Lin et al. 2014, Microsoft COCO).
        path: of the file, for messages.

    Raises:
        InvalidInputError: for fields that are missing or cannot be right.
    """
    names = {}
    for category in content.get("categories") or []:
        names[_key(category, "id", path)] = str(field(category, "name", str, f"{path}, categories"))
    regions: dict[Any, list[tuple[str, Polygon | Bitmap]]] = defaultdict(list)
    for i, annotation in enumerate(field(content, "annotations", list, path)):
        where = f"{path}, annotation {i}"
        category = annotation.get("category_id") if isinstance(annotation, dict) else None
        label = names.get(category, str(category)) if isinstance(category, (int, str)) else ""
        regions[_key(annotation, "image_id", where)] += [(label, region) for region in _drawn(annotation, where)]
    pictures = []
    for i, image in enumerate(content["images"]):
        where = f"{path}, image {i}"
        size = size_of(field(image, "height", int, where), field(image, "width", int, where), where)
        drawn = regions.pop(_key(image, "id", where), [])
        pictures.append(AnnotatedPicture(field(image, "file_name", str, where), drawn, size))
    if regions:
        warnings.warn(
            f"{path}: {len(regions)} image_id of annotations belong to no image, such as {next(iter(regions))}",
            stacklevel=2,
        )
    labels = {label for picture in pictures for label, _ in picture.regions}
    return Annotations(path, pictures, sorted(labels | set(names.values())))


def _key(content: Any, key: str, where: str) -> int | str:
    """An identifier: most tools write numbers, some write text."""
    value = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, (int, str)):
        raise InvalidInputError(f"{where} needs {key!r}, got {str(value)[:40]!r}")
    return value


def _drawn(annotation: Any, where: str) -> Iterator[Polygon | Bitmap]:
    outline = annotation.get("segmentation")
    if isinstance(outline, list) and outline:
        for flat in outline:
            if not isinstance(flat, list) or len(flat) % 2:
                raise InvalidInputError(f"{where}: a segmentation is a list of x and y in turn, got {str(flat)[:40]}")
            yield polygon(list(zip(flat[::2], flat[1::2], strict=True)), where)
    elif isinstance(outline, dict):
        size = field(outline, "size", list, where)
        if len(size) != 2:
            raise InvalidInputError(f"{where}: the size of run lengths is [height, width], got {size}")
        counts = outline.get("counts")
        lengths = _decoded(counts, where) if isinstance(counts, str) else field(outline, "counts", list, where)
        yield run_lengths(lengths, size_of(size[0], size[1], where), where, by_columns=True)
    else:
        left, top, width, height = _box(annotation, where)
        yield box(left, top, left + width, top + height)


def _box(annotation: Any, where: str) -> list[float]:
    values = [number(value, f"{where}: bbox") for value in field(annotation, "bbox", list, where)]
    if len(values) != 4:
        raise InvalidInputError(f"{where}: bbox is [left, top, width, height], got {len(values)} numbers")
    return values


def _decoded(text: str, where: str) -> list[int]:
    """COCO's packed run lengths: six bits a letter, the last letter of a number without bit 32, as differences.

    From the third number on each is the difference to the number two before it.
    """
    lengths: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise InvalidInputError(f"{where}: counts hold {letter!r}, which packed run lengths do not have")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + (lengths[-2] if len(lengths) > 2 else 0))
        value = shift = 0
    return lengths

"""Marks to COCO and from COCO, for annotation tools."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from xaikit.core.errors import InvalidInputError
from xaikit.files.annotations.coco import is_coco, read_coco
from xaikit.files.marks import MEANINGS, MarkKey, Positions, StoredMark

if TYPE_CHECKING:
    from xaikit.files.annotations.regions import AnnotatedPicture
    from xaikit.studio.mark_desk import MarkDesk
    from xaikit.studio.session import Session

ALL = "all samples"  # the picture that stands for a mark of all


def marks_to_coco(session: Session) -> dict[str, Any]:
    """The marks of single samples and of all, as COCO's "instances" with run lengths.

    Marks of all samples belong to a picture called "all samples". Sizes are those of the model's input.

    Args:
        session: whose marks they are.

    Raises:
        InvalidInputError: for samples that are no pictures.
    """
    _check_pictures(session)
    folder = session.marks.folder
    height, width = folder.shape
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for meaning, name, mark in _single_marks(session):
        image = images.setdefault(name, {"id": len(images) + 1, "file_name": name, "height": height, "width": width})
        annotations.append(
            {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": MEANINGS.index(meaning) + 1,
                "iscrowd": 1,
                "area": len(mark.positions),
                "bbox": _box(mark, width),
                "segmentation": {"size": [height, width], "counts": _counts(mark, height, width)},
            }
        )
    categories = [{"id": i + 1, "name": meaning} for i, meaning in enumerate(MEANINGS)]
    return {"images": list(images.values()), "annotations": annotations, "categories": categories}


def marks_from_coco(session: Session, desk: MarkDesk, query: Mapping[str, Any]) -> dict[str, int]:
    """Add what a COCO file marks to the marks of the samples that it names.

    A file about the pictures themselves is scaled and cut as they were for the model; one of the model's input's size
    is taken as it is.

    Args:
        session: whose marks get more.
        desk: that knows which mark is meant.
        query: "coco", the content of the file; "meaning" of labels that are no meaning themselves.

    Returns:
        How many samples got marks, and how many pictures of the file are not in the run.

    Raises:
        InvalidInputError: for another content, or pictures of other proportions than the model's input.
    """
    _check_pictures(session)
    content, usual = query.get("coco"), str(query.get("meaning", MEANINGS[0]))
    if not is_coco(content):
        raise InvalidInputError("the file is no COCO: it has no 'images' and 'annotations'")
    marked, strange = 0, 0
    for picture in read_coco(content, "the COCO file").pictures:
        if not picture.regions:
            continue
        rows = [] if picture.name == ALL else _rows(session, picture.name)
        if not rows and picture.name != ALL:
            strange += 1
            continue
        for label in {label for label, _ in picture.regions}:
            meaning = label if label in MEANINGS else usual
            positions = _placed(picture, label, session, rows)
            key = MarkKey(meaning, "all")
            facts: dict[str, Any] = {}
            if rows:
                key, facts = desk.mark_key(meaning, "sample", rows[0]["position"])
            base = session.marks.state(key).mark.edit
            session.marks.change(key, positions, np.empty(0, np.int64), base=base, identifier="", facts=facts)
        marked += 1
    return {"marked": marked, "unknown": strange}


def _rows(session: Session, name: str) -> list[dict[str, Any]]:
    """The sample of a picture: by its name, else by a name that alone ends with it."""
    catalogue = session.catalogues[0]
    total, rows = catalogue.query([("name", "is", name)], count=1)
    if total == 0:
        total, rows = catalogue.query([("name", "contains", PurePosixPath(name).name)], count=2)
        rows = [row for row in rows if PurePosixPath(row["name"]).name == PurePosixPath(name).name]
    return rows if total == 1 else []


def _placed(picture: AnnotatedPicture, label: str, session: Session, rows: list[dict[str, Any]]) -> Positions:
    """What is drawn on a picture, where the model sees it: scaled and cut as the run's pictures were."""
    from PIL import Image

    shape = session.marks.folder.shape
    size = picture.size or (shape[0], shape[1])
    mask = Image.fromarray(picture.mask(size, [label]))
    way = session.preparation
    if size != shape and way is not None and way.size is not None and rows:
        original = session.picture_size(rows[0])
        if original is not None:
            _check_proportions(picture.name, size, original, "the picture")
        mask = way.placed(mask, Image.Resampling.BOX)
    elif size != shape:
        _check_proportions(picture.name, size, shape, "the model's input")
        mask = mask.resize((shape[1], shape[0]), Image.Resampling.BOX)
    return np.flatnonzero(np.asarray(mask) >= 0.5).astype(np.int64)


def _check_proportions(name: str, size: Sequence[int], other: Sequence[int], what: str) -> None:
    if abs(size[1] * other[0] / (size[0] * other[1]) - 1) > 0.05:
        raise InvalidInputError(
            f"{name} was annotated at {size[0]}x{size[1]} (height x width), and {what} has {other[0]}x{other[1]}: "
            "other proportions; xaikit's commands take the file as --mask"
        )


def _single_marks(session: Session) -> Iterator[tuple[str, str, StoredMark]]:
    folder = session.marks.folder
    for meaning, scope in itertools.product(MEANINGS, ("all", "sample")):
        for path in sorted(folder.files(meaning, scope)):
            mark = folder.read_file(path)
            if len(mark.positions):
                yield meaning, ALL if scope == "all" else str(mark.facts.get("name", path.stem)), mark


def _counts(mark: StoredMark, height: int, width: int) -> list[int]:
    """COCO's run lengths: column by column, outside and inside in turn, beginning with outside."""
    pixels = np.zeros(height * width, np.bool_)
    pixels[mark.positions] = True
    flat = pixels.reshape(height, width).T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat)) + 1
    edges = np.concatenate([[0], changes, [len(flat)]])
    lengths = np.diff(edges).tolist()
    return [0, *lengths] if flat[0] else lengths


def _box(mark: StoredMark, width: int) -> list[int]:
    rows, columns = mark.positions // width, mark.positions % width
    x, y = int(columns.min()), int(rows.min())
    return [x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1]


def _check_pictures(session: Session) -> None:
    if session.kind != "image":
        raise InvalidInputError(f"COCO is about pictures, and these samples are of the kind {session.kind!r}")

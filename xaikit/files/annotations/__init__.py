"""Masks from annotation tools: COCO and LabelMe (JSON), CVAT (XML), YOLO (text); one reader in a file for each."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import check_is_file
from xaikit.files.annotations.coco import is_coco, read_coco
from xaikit.files.annotations.cvat import read_cvat
from xaikit.files.annotations.labelme import is_labelme, read_labelme
from xaikit.files.annotations.reading import read_json
from xaikit.files.annotations.regions import AnnotatedPicture, Annotations
from xaikit.files.annotations.yolo import NAMES, read_yolo

__all__ = ["FILES", "AnnotatedPicture", "Annotations", "annotation_files", "read_annotations"]

FILES = (".json", ".xml", ".txt")


def annotation_files(folder: Path, stems: Collection[str] | None = None) -> list[Path]:
    """The files of LabelMe (.json), else of YOLO (.txt), in a folder and those below it, in the order of their names.

    Args:
        folder: to look in.
        stems: names of pictures without ending, of which a file must have one; None takes every file.
    """
    for ending in (".json", ".txt"):
        files = sorted(p for p in folder.rglob(f"*{ending}") if p.is_file() and p.name not in NAMES)
        if any(stems is None or file.stem in stems for file in files):
            return files
    return []


def read_annotations(path: Path, files: list[Path] | None = None) -> Annotations:
    """What a tool wrote about pictures.

    Args:
        path: a COCO, LabelMe or CVAT file, a .txt of YOLO, or the folder of `files`.
        files: of LabelMe or YOLO, one for each picture, where `path` is their folder.

    Raises:
        InvalidInputError: for a file of another format, or one that is damaged; the message names it.
    """
    if files is not None:
        return (read_labelme if files[0].suffix.lower() == ".json" else read_yolo)(files, path)
    check_is_file(path)
    ending = path.suffix.lower()
    if ending == ".xml":
        return read_cvat(path)
    if ending == ".txt":
        return read_yolo([path], path)
    content = read_json(path)
    if is_coco(content):
        return read_coco(content, str(path))
    if is_labelme(content):
        return read_labelme([path], path)
    raise InvalidInputError(
        f"{path} is no annotation of a kind that is known: COCO has 'images' and 'annotations', LabelMe has 'shapes'"
    )

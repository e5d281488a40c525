"""--mask from an annotation tool: the regions that were drawn on each picture, brought to the model's input."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from xaikit.cli.mask_matching import annotated
from xaikit.cli.mask_placing import ON_THEIR_SIDE, MaskPlacing, as_pixels
from xaikit.core.errors import InvalidInputError
from xaikit.files.annotations import FILES, AnnotatedPicture, annotation_files, read_annotations
from xaikit.shortcuts.masks import mask_files


class AnnotationMasks:
    """The masks in the files of an annotation tool, one for each picture.

    Args:
        path: a COCO, LabelMe or CVAT file, or a folder of LabelMe's or YOLO's files.
        data: the pictures.
        labels: of the regions that count; all where there is none.

    Raises:
        InvalidInputError: for files that are damaged, or do not belong to these pictures.
        UnknownNameError: for a label that does not occur.
    """

    number = 0  # none is known by its number: they are matched by name
    by_name = True

    def __init__(self, path: Path, data: Any, labels: Sequence[str] = ()) -> None:
        pictures = getattr(data, "pictures", None)
        if pictures is None:
            raise InvalidInputError(f"--mask {path} holds annotations of pictures, which --data must be a folder of")
        files = _files(path, data.names) if path.is_dir() else None
        annotations = read_annotations(path, files)
        annotations.check_labels(labels, "--mask-label")
        self._labels, self._pictures = labels, pictures
        self._placing = MaskPlacing(path, data.names, pictures, is_drawn=True)
        self._annotated: list[AnnotatedPicture | None]
        if annotations.is_of_one and len(data.names) > 1:
            warnings.warn(
                f"--mask {path} is about one picture; its region is used for all {len(data.names)}", stacklevel=2
            )
            self._annotated = [annotations.pictures[0]] * len(data.names)
        else:
            self._annotated = annotated(annotations, data.names)

    def of(self, indices: Tensor, inputs: Tensor, total: int, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The masks of some pictures, by their indices in the data: (n, H, W)."""
        return torch.stack([self._placing.place(self._mask(i), i, inputs) for i in indices.tolist()])

    def _mask(self, sample: int) -> Tensor:
        """The mask of a picture, of its size (before it is turned upright, where the tool saw it so)."""
        picture, annotation = self._pictures.size(sample), self._annotated[sample]
        if annotation is None:
            return torch.zeros(picture)
        size, way = annotation.size or picture, self._pictures.orientation(sample)
        sideways = way in ON_THEIR_SIDE and size == picture[::-1]
        if size != picture and not sideways:
            raise InvalidInputError(
                f"--mask {self._placing.path}: {annotation.name} was annotated at {as_pixels(size)} (height x width), "
                f"and {self._placing.name(sample)} has {as_pixels(picture)}; annotate the pictures that are used"
            )
        if way not in (1, *ON_THEIR_SIDE) or (way != 1 and picture[0] == picture[1]):
            warnings.warn(
                f"{self._placing.name(sample)} is turned by its EXIF; its annotation is taken as drawn on the upright "
                "picture",
                stacklevel=2,
            )
        return torch.from_numpy(annotation.mask(size, self._labels))


def holds_annotations(path: Path, data: Any) -> bool:
    """Whether --mask names files of an annotation tool."""
    return bool(_files(path, data.names)) if _may_hold(path, data) else path.suffix.lower() in FILES and path.is_file()


def _may_hold(path: Path, data: Any) -> bool:
    return path.is_dir() and getattr(data, "pictures", None) is not None


def _files(path: Path, names: Sequence[str]) -> list[Path]:
    """The annotations in a folder; nothing where it holds masks as pictures.

    Raises:
        InvalidInputError: for a folder that holds both.
    """
    stems = {PurePosixPath(name).stem for name in names}
    files = annotation_files(path, stems)
    masks = mask_files(path, below=True, none=True)
    # Tools write beside the pictures, which are then no masks.
    drawn = [f for f in masks if f.relative_to(path).as_posix() not in set(names)]
    if files and drawn:
        raise InvalidInputError(
            f"--mask {path} holds masks as pictures ({drawn[0].name}) and annotations ({files[0].name}); keep one kind"
        )
    return files

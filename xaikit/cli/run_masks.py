"""--mask for the samples of a run: one mask, or one for each, which has the sample's name."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from torch import Tensor

from xaikit.cli.mask_matching import files_of
from xaikit.core.errors import InvalidInputError
from xaikit.files.annotations import FILES, annotation_files
from xaikit.files.marks import find_marks
from xaikit.files.pictures import PICTURES
from xaikit.runs import Run
from xaikit.shortcuts import load_masks
from xaikit.shortcuts.masks import mask_files


def masks_of_run(path: Path, run: Run) -> Tensor:
    """The masks in a file, or those in a folder for each sample of the run's data, by name.

    Raises:
        InvalidInputError: for what holds no masks, or annotations, which say where a region is in the pictures: a run
            does not keep these.
    """
    if path.is_dir() and find_marks(path) is not None:
        return load_masks(path)
    if path.suffix.lower() in FILES or (path.is_dir() and not mask_files(path, none=True) and annotation_files(path)):
        raise InvalidInputError(
            f"--mask {path} holds annotations of pictures, and a run holds only the model's inputs; measure with "
            "xaikit evaluate --metric relevance_mass, or name masks of the inputs' size"
        )
    names = [row["name"] or "" for row in run.rows()]
    if not path.is_dir() or not any(PurePosixPath(name).suffix.lower() in PICTURES for name in names):
        return load_masks(path)
    files = files_of(path, names, is_file=True)
    first = load_masks(files[0])
    masks = first.new_zeros(run.job["samples"], *first.shape)
    for row, file in zip(run.rows(), files, strict=True):
        mask = load_masks(file)
        if mask.shape != first.shape:
            raise InvalidInputError(f"--mask {path}: {file.name} has {tuple(mask.shape)}, others {tuple(first.shape)}")
        masks[row["index"]] = mask
    return masks

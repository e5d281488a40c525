"""Shortcut masks: from explanations, and from files."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.core import Attribution
from xaikit.core.errors import InvalidInputError
from xaikit.core.files import similar_paths
from xaikit.core.masks import read_mask_values
from xaikit.core.params import Int
from xaikit.files.annotations import FILES, annotation_files, read_annotations
from xaikit.files.arrays import read_npy, read_npz
from xaikit.files.marks import find_marks
from xaikit.files.pictures import read_mask_picture
from xaikit.shortcuts.maps import distributions, relevance_maps
from xaikit.shortcuts.marked import marked_masks

PICTURES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".jpg", ".jpeg")
ENDINGS = (".npy", ".npz", ".safetensors", *PICTURES)


def make_masks(
    attributions: Any,
    samples: Sequence[int] | None = None,
    *,
    threshold: float = 0.5,
    grow: int = 0,
    everywhere: bool = False,
    sign: str = "absolute",
) -> Tensor:
    """Masks of the regions with high relevance, in the form that mitigators take: 1 inside.

    Without `samples` each sample gets its own mask: positions with at least `threshold` times its largest relevance.

    With `samples`, such as ``clusters.samples(1)``, these samples share one region: positions where their mean
    relevance exceeds that of all other samples by at least `threshold` times the largest such excess. Subtracting the
    other samples leaves the region that only this cluster looks at, and removes what all look at.

    Args:
        attributions: (N, C, ...) of any explainer, or an `Attribution`.
        samples: indices of a cluster's samples; None gives each sample a mask of its own.
        threshold: above 0, at most 1.
        grow: positions by which the region is widened on every side.
        everywhere: give the shared region to all samples, not only to those of the cluster.
        sign: "absolute" relevance, or only the "positive" part.

    Returns:
        (N, ...) without channels; zero for samples outside the cluster.

    Raises:
        InvalidInputError: for samples that are not there, or all of them; a threshold outside (0, 1].

    >>> import torch
    >>> maps = torch.rand(10, 1, 8, 8)
    >>> maps[6:, :, :2, :2] += 20
    >>> make_masks(maps, [6, 7, 8, 9]).sum((1, 2))
    tensor([0., 0., 0., 0., 0., 0., 4., 4., 4., 4.])
    """
    maps = relevance_maps(attributions, sign=sign)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not 0 < threshold <= 1:
        raise InvalidInputError(f"threshold must lie in (0, 1], got {threshold!r}")
    grow = Int(ge=0).check(grow, "grow")
    if samples is None:
        largest = maps.flatten(1).amax(1).view(-1, *[1] * (maps.ndim - 1))
        return _grown((maps >= threshold * largest) & (largest > 0), grow)
    rows = _rows(samples, len(maps))
    maps = distributions(maps)
    excess = maps[rows].mean(0) - maps[~rows].mean(0)
    region = _grown((excess >= threshold * excess.max())[None], grow)
    inside = torch.ones_like(rows) if everywhere else rows
    return region * inside.view(-1, *[1] * (region.ndim - 1))


def _rows(samples: Sequence[int], n: int) -> Tensor:
    """Which of n samples are listed, as booleans (N,)."""
    index = torch.as_tensor(samples, device="cpu")
    if index.ndim != 1 or len(index) == 0 or index.dtype == torch.bool or index.is_floating_point():
        raise InvalidInputError(f"samples must be a list of sample indices, got {samples!r}")
    if int(index.min()) < 0 or int(index.max()) >= n:
        raise InvalidInputError(f"samples must lie in 0..{n - 1}, got {int(index.min())} to {int(index.max())}")
    rows = torch.zeros(n, dtype=torch.bool, device="cpu")
    rows[index] = True
    if bool(rows.all()):
        raise InvalidInputError(
            "samples names all of them, so there are no others to compare with; leave it out for a mask per sample"
        )
    return rows


def _grown(mask: Tensor, grow: int) -> Tensor:
    """Float masks (N, ...), widened."""
    mask = mask.float()
    if grow == 0:
        return mask
    if mask.ndim > 4:
        raise InvalidInputError(f"grow widens regions of up to three dimensions, got maps {tuple(mask.shape[1:])}")
    pool = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[mask.ndim - 2]
    return pool(mask[:, None], 2 * grow + 1, 1, grow)[:, 0]


def load_masks(  # noqa: PLR0911
    path: str | Path,
    *,
    key: str | None = None,
    threshold: float = 0.5,
    labels: Sequence[str | int] = (),
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Masks from a file, or from a folder of them in the order of their names.

    * ``.npy``; ``.npz`` with one array, or with its name in `key`;
    * pictures (``.png`` and others): grey values, black = 0, white = 1, or an index picture of 0 and 1; turned upright;
    * a folder of marks, such as ``run/marks/must-not-matter``: those of each sample of the run, see `xaikit studio`;
    * files of annotation tools: COCO and LabelMe (``.json``), CVAT for images (``.xml``), YOLO (``.txt``);
    * heatmap files, which `Attribution.save` wrote (``.npz``, ``.safetensors``): each sample's relevance of at least
      `threshold` times its largest one, see `make_masks`.

    Args:
        path: a file, or a folder of files with masks of one shape.
        key: name of the array in a ``.npz`` with several.
        threshold: of heatmaps, above 0 and at most 1.
        labels: of annotations, the labels whose regions count; of index pictures and arrays of whole numbers, the
            numbers inside. Nothing takes every region, and 0 and 1 of an index picture.
        size: (height, width) of the pictures of YOLO, whose files do not have it.

    Returns:
        Values in [0, 1]: the array's own shape, (H, W) of a picture, (N, H, W) of a folder, or of a file about many
        pictures.

    Raises:
        InvalidInputError: for a file that is not there or cannot be read, values outside [0, 1], pictures of different
            sizes.
        UnknownNameError: for a label that does not occur.
    """
    path = Path(path)
    marks = find_marks(path)
    if marks is not None:
        return marked_masks(*marks)
    if path.is_dir():
        if not mask_files(path, none=True) and (annotated := annotation_files(path)):
            return _annotated(path, annotated, labels, size)
        files = mask_files(path)
        masks = [load_masks(file, key=key, threshold=threshold, labels=labels) for file in files]
        shapes = {tuple(m.shape): f.name for m, f in zip(masks, files, strict=True)}
        if len(shapes) > 1:
            shape_list = ", ".join(f"{shape} in {name}" for shape, name in shapes.items())
            raise InvalidInputError(f"the masks of a folder must have one shape, got {shape_list}")
        return torch.stack(masks)
    if not path.is_file():
        raise InvalidInputError(f"there is no mask file {path}{similar_paths(path)}")
    ending = path.suffix.lower()
    if ending in FILES:
        return _annotated(path, None, labels, size)
    if ending not in ENDINGS:
        raise InvalidInputError(f"masks are read from {', '.join((*ENDINGS, *FILES))}, got {path.name!r}")
    try:
        if ending in PICTURES:
            return read_mask_values(torch.from_numpy(read_mask_picture(path, index_labels(labels, path))))
        if ending == ".safetensors" or _is_heatmap(path):
            if labels:
                raise InvalidInputError("it is a heatmap, which has no labels")
            return make_masks(Attribution.load(path), threshold=threshold)
        return array_mask(_array(path, key), path.name, index_labels(labels, path))
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as err:
        raise InvalidInputError(f"{path.name} cannot be read as masks: {err}") from err


def _annotated(
    path: Path, files: list[Path] | None, labels: Sequence[str | int], size: tuple[int, int] | None
) -> Tensor:
    """The masks of an annotation file, or of a folder's files."""
    annotations = read_annotations(path, files)
    chosen = [str(label) for label in labels]
    annotations.check_labels(chosen, "labels")
    sizes = {picture.size or size: picture.name for picture in annotations.pictures}
    if None in sizes:
        raise InvalidInputError(f"{path} has shares of a picture whose size it does not say; pass size=(height, width)")
    if len(sizes) != 1:
        size_list = ", ".join(f"{s[0]}x{s[1]} of {name}" for s, name in list(sizes.items())[:4] if s is not None)
        raise InvalidInputError(
            f"{path} is about pictures of different sizes ({size_list or 'none'}); xaikit's commands take it as --mask "
            "and bring each mask to its picture"
        )
    masks = [torch.from_numpy(p.mask(p.size or size or (0, 0), chosen)) for p in annotations.pictures]
    return masks[0] if annotations.is_of_one else torch.stack(masks)


def index_labels(labels: Sequence[str | int], path: Path) -> list[int]:
    """Labels as the whole numbers that an index picture or an array holds.

    Raises:
        InvalidInputError: for words.
    """
    word = next((label for label in labels if not str(label).isdecimal()), None)
    if word is not None:
        raise InvalidInputError(f"{path.name} has numbers as labels, got {word!r}")
    return [int(label) for label in labels]


def mask_files(folder: Path, *, below: bool = False, none: bool = False) -> list[Path]:
    """The masks in a folder, in the order of their names; also those in the folders below it.

    Raises:
        InvalidInputError: where there is none, unless that may be.
    """
    files = sorted(p for p in (folder.rglob("*") if below else folder.iterdir()) if p.suffix.lower() in ENDINGS)
    if not files and not none:
        raise InvalidInputError(f"the folder {folder} holds no mask; endings are {', '.join(ENDINGS)}")
    return files


def _is_heatmap(path: Path) -> bool:
    if path.suffix.lower() != ".npz":
        return False
    with zipfile.ZipFile(path) as archive:
        return "meta.npy" in archive.namelist()


def array_mask(array: Any, what: str = "masks", indices: Sequence[int] = ()) -> Tensor:
    """An array as a mask: booleans, numbers in [0, 1], or the bytes 0 and 255 of a picture.

    Args:
        array: of numbers.
        what: for messages.
        indices: the numbers inside, of an array of whole numbers.

    Raises:
        InvalidInputError: for other numbers.
    """
    if indices:
        if array.dtype.kind not in "iu":
            raise InvalidInputError(f"{what} must hold whole numbers, of which labels are chosen, got {array.dtype}")
        return torch.from_numpy(np.isin(array, indices)).float()
    is_picture = array.dtype == np.uint8 and array.size and array.max() == 255 and set(np.unique(array)) <= {0, 255}
    return read_mask_values(array > 0 if is_picture else array, what=what)


def _array(path: Path, key: str | None) -> Any:
    if path.suffix.lower() == ".npy":
        return np.array(read_npy(path))
    arrays = read_npz(path)
    if key is None and len(arrays) != 1:
        raise InvalidInputError(f"it holds the arrays {', '.join(arrays)}; name one with key=")
    if key is not None and key not in arrays:
        raise InvalidInputError(f"it holds no array {key!r}, only {', '.join(arrays)}")
    return arrays[key or next(iter(arrays))]

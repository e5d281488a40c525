"""--mask: one map for all samples or one for each, read when its sample is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
from xaikit.files.arrays import read_npy
from xaikit.shortcuts import load_masks
from xaikit.shortcuts.masks import array_mask, mask_files

if TYPE_CHECKING:
    from xaikit.cli.samples import PictureFiles
    from xaikit.files.pictures import Preparation

NEAREST, BOX = Image.Resampling.NEAREST, Image.Resampling.BOX
MASK_ENDINGS = ("_mask", "-mask", "_segmentation", "-segmentation", "_seg", "-seg")


class Masks:
    """The maps in a file or a folder.

    A map for a picture may have the picture's proportions, and is then scaled and cut like the picture, or those of the
    model's input.

    Args:
        path: a .png or another picture; a .npy with one map or one for each sample, of which only the needed rows are
            read; a heatmap file; or a folder with a file for each sample, which has the sample's name.
        data: the samples.
        by_class: there is one map for each class, and a sample takes its label's.

    Raises:
        InvalidInputError: for what cannot be read as masks, or a folder without a mask for each sample.
    """

    def __init__(self, path: Path, data: Any = None, *, by_class: bool = False) -> None:
        self._path, self._by_class = path, by_class
        self._pictures: PictureFiles | None = getattr(data, "pictures", None)
        self._names: Sequence[str] = getattr(data, "names", ())
        self._values: Any = None
        self._files: list[Path] = []
        if path.is_dir():
            by_order = by_class or data is None
            self._files = mask_files(path) if by_order else files_of(path, self._names, is_file=bool(self._pictures))
            self._shape: tuple[int, ...] = (len(self._files), *load_masks(self._files[0]).shape)
            return
        self._values = read_npy(path, "--mask") if path.suffix == ".npy" else load_masks(path)
        self._shape = tuple(self._values.shape)

    @property
    def number(self) -> int:
        """How many maps there are, where there may be one for each sample; else 0."""
        return 0 if self._by_class else self._shape[0]

    def each(self, axes: int, total: int) -> bool:
        """Whether there is one map for each of `total` samples; else one for all.

        Args:
            axes: of a batch of samples.
            total: samples in the data.

        Raises:
            InvalidInputError: for masks of another number.
        """
        if len(self._shape) == (1 if axes == 2 else axes - 2):  # a map has neither samples nor channels
            return False
        if self._shape and self._shape[0] == total:
            return True
        raise InvalidInputError(
            f"--mask holds {self._shape}; it takes one map for all samples, or one for each of {total}"
        )

    def of(self, indices: Tensor, inputs: Tensor, total: int, labels: Tensor | None = None) -> Tensor:
        """The maps of some samples, by their indices in the data or by their labels: (n, ...)."""
        samples = indices.tolist()
        if self._by_class:
            rows = self._classes(labels, inputs.ndim).tolist()
        else:
            rows = samples if self.each(inputs.ndim, total) else [None] * len(samples)
        maps = [self._fitted(self._map(row), sample, inputs) for row, sample in zip(rows, samples, strict=True)]
        shapes = dict.fromkeys(tuple(m.shape) for m in maps)
        if len(shapes) > 1:
            raise InvalidInputError(
                f"the masks of {self._path} must have one shape, got {' and '.join(map(str, shapes))}"
            )
        return torch.stack(maps)

    def _map(self, row: int | None) -> Tensor:
        """One map: of a sample, of a class, or (None) the one for all."""
        if self._files and row is not None:
            return load_masks(self._files[row])
        values = self._values[...] if row is None else self._values[row]
        return values if isinstance(values, Tensor) else array_mask(np.array(values), f"--mask {self._path}")

    def _fitted(self, mask: Tensor, sample: int, inputs: Tensor) -> Tensor:
        """A map of a picture in the form of the model's input."""
        shape = tuple(inputs.shape[2:])
        if inputs.ndim != 4 or mask.ndim < 2 or tuple(mask.shape[-2:]) == shape:
            return mask
        picture = self._pictures.size(sample) if self._pictures is not None else None
        name = self._names[sample] if len(self._names) > sample else f"sample {sample}"
        if self._pictures is not None and picture is not None and same_proportions(mask.shape[-2:], picture):
            fitted = _like_picture(mask, picture, self._pictures.preparation)
        elif same_proportions(mask.shape[-2:], shape):
            fitted = _scaled(mask, shape)
        else:
            size = "" if picture is None else f"the picture {name} {_size(picture)} and "
            raise InvalidInputError(
                f"--mask {self._path} has {_size(mask.shape[-2:])} (height x width), {size}the model's input "
                f"{_size(shape)}; a mask must have the proportions of the picture or of the input"
            )
        if bool(mask.any()) and not bool(fitted.any()):
            text = f"--mask {self._path} covers nothing of what the model sees of {name}: --size cuts its region off"
            if not self._files and len(self._shape) <= 2:
                raise InvalidInputError(text)
            warnings.warn(text, stacklevel=2)
        return fitted

    def _classes(self, labels: Tensor | None, axes: int) -> Tensor:
        """The labels, where there is a map for each of them."""
        if labels is None:
            raise InvalidInputError("mask_scope=class takes the map of each sample's label, and the data has no labels")
        if len(self._shape) not in (max(2, axes - 1), axes) or int(labels.max()) >= self._shape[0]:
            raise InvalidInputError(
                f"mask_scope=class needs a --mask with one map for each class; there is a label {int(labels.max())}, "
                f"and the masks have the shape {self._shape}"
            )
        return labels


def files_of(folder: Path, names: Sequence[str], *, is_file: bool) -> list[Path]:
    """The mask of each sample in a folder: the file of the sample's name, whatever its ending.

    A mask may carry "_mask" or "_segmentation" after the name, and a folder without subfolders serves pictures in
    subfolders whose file names differ. Samples without file names are matched by their numbers, 0.png, 1.png, ...

    Args:
        folder: of the masks.
        names: of the samples.
        is_file: whether the names are paths of files.

    Raises:
        InvalidInputError: for a sample without a mask; it is named.
    """
    masks = {f.relative_to(folder).with_suffix("").as_posix(): f for f in mask_files(folder, below=True)}
    stripped = {next((k.removesuffix(end) for end in MASK_ENDINGS if k.endswith(end)), k): f for k, f in masks.items()}
    masks = {**stripped, **masks}
    keys = [PurePosixPath(name).with_suffix("").as_posix() if is_file else name for name in names]
    flat = {key: PurePosixPath(key).name for key in keys}
    if len(set(flat.values())) == len(keys) and not set(keys) & set(masks):
        keys = [flat[key] for key in keys]
    if not is_file and not set(keys) & set(masks):
        numbers = {str(int(key)): f for key, f in masks.items() if key.isdecimal()}
        masks, keys = numbers, [str(i) for i in range(len(names))]
    missing = [name for name, key in zip(names, keys, strict=True) if key not in masks]
    unused = sorted({f.name for f in masks.values()} - {masks[key].name for key in keys if key in masks})
    extra = f"; {unused[0]} belongs to no sample" if unused else ""
    if missing:
        raise InvalidInputError(
            f"--mask {folder} holds no mask for {missing[0]} ({len(missing)} of {len(names)} samples){extra}; a mask "
            "has the name of its picture, and one without the region is black"
        )
    if unused:
        warnings.warn(f"--mask {folder}: {unused[0]} belongs to no sample ({len(unused)} such)", stacklevel=2)
    return [masks[key] for key in keys]


def same_proportions(size: Sequence[int], other: Sequence[int]) -> bool:
    """Whether (height, width) has the proportions of another size, within a pixel and 5 per cent."""
    (h, w), (height, width) = size, other
    if abs(w * height / (h * width) - 1) > 0.05:
        return False
    return abs(w * height / h - width) <= 1 or abs(h * width / w - height) <= 1


def _like_picture(mask: Tensor, picture: tuple[int, int], preparation: Preparation) -> Tensor:
    """A mask drawn on a picture of some (height, width), scaled and cut as the picture is."""
    return _each_map(mask, lambda image: preparation.placed(image.resize((picture[1], picture[0]), NEAREST), BOX))


def _scaled(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    return _each_map(mask, lambda image: image.resize((shape[1], shape[0]), BOX))


def _each_map(mask: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Change each map (..., H, W); one of 0 and 1 stays so: a pixel is inside where at least half of it was."""
    flat = mask.reshape(-1, *mask.shape[-2:])
    maps = torch.stack([torch.from_numpy(np.array(change(Image.fromarray(m.float().numpy())))) for m in flat])
    maps = (maps >= 0.5).float() if bool(((mask == 0) | (mask == 1)).all()) else maps.clamp(0, 1)
    return maps.reshape(*mask.shape[:-2], *maps.shape[-2:])


def _size(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"


class NamedMasks:
    """Columns of a table, or tokens of texts wherever they stand, by their names.

    Args:
        names: of columns or tokens.
        data: samples of a table or of texts.

    Raises:
        UnknownNameError: for a column or a token that is not there.
        InvalidInputError: for data that names neither.
    """

    number = 0  # never one for each sample of a data set: it is made where the samples are

    def __init__(self, names: Sequence[str], data: Any) -> None:
        self._ids: Tensor = torch.empty(0)
        self._columns: Tensor | None = None
        if getattr(data, "ids", None) is not None:
            self._ids = torch.tensor(data.ids(names))
        elif getattr(data, "features", ()):
            features = list(data.features)
            stranger = next((name for name in names if name not in features), None)
            if stranger is not None:
                raise UnknownNameError(f"--mask-names: no column {stranger!r}{near_names(stranger, features)}")
            self._columns = torch.tensor([float(feature in names) for feature in features])
        else:
            raise InvalidInputError("--mask-names takes columns of a .csv, or tokens of --text; else give --mask")

    def of(self, indices: Tensor, inputs: Tensor, total: int, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """The maps of some samples: (n, columns) or (n, T)."""
        if self._columns is not None:
            return self._columns.expand(len(inputs), -1)
        return torch.isin(inputs, self._ids).float()


AnyMasks = Masks | NamedMasks


def read_masks(
    path: Path | None, names: Sequence[str] = (), data: Any = None, *, by_class: bool = False
) -> AnyMasks | None:
    """The masks of --mask, or those of --mask-names in some data; None for neither.

    Raises:
        InvalidInputError: for both, or for names where there must be a map for each class.
    """
    if names and path is not None:
        raise InvalidInputError("name the region by --mask or by --mask-names, not both")
    if names and by_class:
        raise InvalidInputError("mask_scope=class needs a --mask with one map for each class, not --mask-names")
    if names:
        return NamedMasks(names, data)
    return None if path is None else Masks(path, data, by_class=by_class)

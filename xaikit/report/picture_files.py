"""Explanations as picture files, one for each sample or all in a grid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from xaikit.core.arrays import to_tensor
from xaikit.core.attribution import Attribution
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.image_forms import channels_first
from xaikit.core.params import Float
from xaikit.report.figures import SIGNED, UNSIGNED
from xaikit.report.pictures import Array, colours
from xaikit.runs import Run

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf", ".svg")


def save_images(
    explanations: Any,
    folder: str | Path,
    *,
    cmap: str | None = None,
    gamma: float = 1.0,
    together: bool = False,
    grid: bool = False,
) -> list[Path]:
    """The paths of PNG pictures of explanations of images, one pixel for each position.

    Channels are added up; what is not finite is drawn as 0, with a warning. A map is divided by its largest absolute
    value; where any value is negative 0 has the colour in the middle, else the first one. The share s becomes
    sign(s) |s|^gamma before it gets its colour.

    Args:
        explanations: a run, an `Attribution`, or an array (N, C, H, W) or (N, H, W).
        folder: is made where it is not there. The files are called by the samples' indices, `000012.png`.
        cmap: a palette of matplotlib by its name; None takes red, white and blue for values of both signs, else bright
            colours on black.
        gamma: below 1 brings out small values, above 1 hides them.
        together: divide all maps by the largest value of all, so that colours can be compared between samples.
        grid: one picture `grid.png` of all maps in a square, which must be of one size, instead of one for each.

    Raises:
        InvalidInputError: for explanations of anything but images, another gamma, a picture's name in place of the
            folder's, or no explanation at all.
        InvalidTypeError: for a gamma that is no number, a palette that is no name, explanations that are no numbers.
        UnknownNameError: for a palette that matplotlib does not have.
    """
    gamma = Float(gt=0).check(gamma, "gamma")
    if not isinstance(cmap, (str, NoneType)):
        raise InvalidTypeError(f"cmap must be the name of a palette of matplotlib, such as 'viridis', got {cmap!r}")
    if cmap is not None and cmap not in matplotlib.colormaps:
        raise UnknownNameError(f"matplotlib has no palette {cmap!r}{near_names(cmap, list(matplotlib.colormaps))}")
    largest, signed, n_not_finite = 0.0, False, 0
    for _, values in _maps(explanations):  # a run is read twice, so that one map is in memory at a time
        largest, signed = max(largest, _largest(values)), signed or bool((values < 0).any())
        n_not_finite += not np.isfinite(values).all()
    if n_not_finite:
        warnings.warn(f"{n_not_finite} explanations hold NaN or inf, which are drawn as 0", stacklevel=2)
    palette = colours(cmap or (SIGNED if signed else UNSIGNED))
    target = Path(folder)
    if target.suffix.lower() in PICTURES and not target.is_dir():
        raise InvalidInputError(
            f"save_images writes pictures into a folder, got {str(folder)!r}; leave {target.suffix} out"
        )
    target.mkdir(parents=True, exist_ok=True)
    paths, pictures = [], []
    for index, values in _maps(explanations):
        share = _finite(values) / ((largest if together else _largest(values)) or 1.0)
        curved = np.sign(share) * np.abs(share) ** gamma
        picture = palette[(((curved + 1) / 2 if signed else curved) * 255).round().astype(int)]
        if grid:
            pictures.append(picture)
            continue
        paths.append(target / f"{index:06d}.png")
        Image.fromarray(picture.astype(np.uint8)).save(paths[-1])
    if grid and pictures:
        paths.append(target / "grid.png")
        Image.fromarray(_squared(pictures).astype(np.uint8)).save(paths[-1])
    if not paths:
        raise InvalidInputError("there is no explanation to draw: the run has none")
    return paths


def _maps(explanations: Any) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The index and the map (H, W) of each sample."""
    samples: Iterable[tuple[int, Any]]
    if isinstance(explanations, Run):
        samples = ((sample.index, sample.values) for sample in explanations)
    else:
        values = explanations.values if isinstance(explanations, Attribution) else explanations
        samples = enumerate(to_tensor(values, "explanations") if not isinstance(values, (tuple, dict)) else [values])
    for index, sample in samples:
        array = np.asarray(sample.detach().double().cpu()) if hasattr(sample, "detach") else None
        if array is None or array.ndim not in (2, 3):
            got = "several inputs" if array is None else f"values {array.shape} for a sample"
            raise InvalidInputError(f"save_images draws explanations (C, H, W) or (H, W) of a sample, got {got}")
        yield index, channels_first(array).sum(0) if array.ndim == 3 else array


def _largest(values: Array) -> float:
    return float(np.abs(_finite(values)).max(initial=0.0))


def _finite(values: Array) -> Array:
    return np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)


def _squared(pictures: list[Array]) -> Array:
    """Pictures (H, W, 3) in rows and columns with a white line between them."""
    if len({p.shape for p in pictures}) > 1:
        raise InvalidInputError("a grid needs maps of one size; leave grid=True out")
    columns = math.ceil(math.sqrt(len(pictures)))
    height, width = (side + 1 for side in pictures[0].shape[:2])
    sheet = np.full((math.ceil(len(pictures) / columns) * height - 1, columns * width - 1, 3), 255)
    for i, picture in enumerate(pictures):
        row, column = i // columns * height, i % columns * width
        sheet[row : row + height - 1, column : column + width - 1] = picture
    return sheet

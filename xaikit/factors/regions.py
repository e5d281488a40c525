"""Regions of images that are exchanged: a mask, a corner, the border, a cell of a grid."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.arrays import is_array, to_tensor
from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Categorical, Int
from xaikit.core.registries import FACTORS
from xaikit.factors.base import NUISANCE, ExchangeContext, Factor, Family
from xaikit.factors.exchange import exchanged, mask_like
from xaikit.factors.facts import IMAGE, KINDS, DataFacts

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
CORNER_SHARE, BORDER_SHARE = 4, 8  # the side of a corner and the width of the border, as a part of the shorter side


def _mask(value: Any, where: str) -> Any:
    if isinstance(value, str):
        raise InvalidInputError(
            f"{where}: a text describes a mask and cannot hold it, got {value!r}; pass the mask itself, "
            "MaskedRegion(mask=array), on the command line --mask FILE"
        )
    return None if value is None else to_tensor(value, where)


@FACTORS.register("region")
class MaskedRegion(Factor):
    """The region that a mask marks.

    Without a mask of its own it takes those of the data, one for each sample; a region that lies elsewhere in the donor
    is moved to the sample's mask. Whether a sample has one is exchanged, too: one that has an empty mask gets the
    donor's region where it lies in the donor.
    """

    KINDS: ClassVar[tuple[str, ...]] = KINDS

    mask: Annotated[Any, _mask, "where it lies, one for all samples in any form; None: the masks of the data"] = None

    @property
    def needs_masks(self) -> bool:
        """Whether it has no mask of its own."""
        return self.mask is None

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        if self.mask is not None:
            mask = mask_like(self.mask, x[:1]).expand_as(x) if len(x) else mask_like(self.mask, x)
            return exchanged(x, mask, donors, mask)
        if context.mask is None:
            raise InvalidInputError("the factor 'region' needs masks: those of the data, or region:mask=")
        other = context.mask if context.donor_mask is None else context.donor_mask
        return exchanged(x, context.mask, donors, other)


class Place(Factor):
    """A region of images that is the same in all of them."""

    KINDS: ClassVar[tuple[str, ...]] = (IMAGE,)

    @abc.abstractmethod
    def mask_of(self, height: int, width: int) -> Tensor:
        """The region as a mask, bool (H, W).

        Args:
            height: of the images, in pixels.
            width: likewise.
        """

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        places = [d for d in range(1, 4) if d != context.facts.channel_axis]
        mask = self.mask_of(x.shape[places[0]], x.shape[places[1]]).to(x.device)
        return torch.where(mask.unsqueeze(context.facts.channel_axis - 1), donors, x)


@FACTORS.register("corner")
class Corner(Place):
    """A square in a corner of images."""

    nature = NUISANCE
    where: Annotated[str, Categorical(*CORNERS, search=False), "which corner"] = CORNERS[0]
    size: Annotated[int | None, Int(ge=1, optional=True), "side in pixels; None: a quarter of the shorter side"] = None

    @property
    def title(self) -> str:
        """Such as "top left corner"."""
        return f"{self.where.replace('-', ' ')} corner"

    def mask_of(self, height: int, width: int) -> Tensor:
        """The region as a mask, bool (H, W).

        Args:
            height: of the images, in pixels.
            width: likewise.
        """
        size = _side(self.size, CORNER_SHARE, height, width, "corner:size")
        mask = torch.zeros(height, width, dtype=torch.bool, device="cpu")
        rows = slice(0, size) if self.where.startswith("top") else slice(height - size, height)
        columns = slice(0, size) if self.where.endswith("left") else slice(width - size, width)
        mask[rows, columns] = True
        return mask


@FACTORS.register("border")
class Border(Place):
    """The frame of images: the pixels next to an edge."""

    nature = NUISANCE
    width: Annotated[int | None, Int(ge=1, optional=True), "in pixels; None: an eighth of the shorter side"] = None

    def mask_of(self, height: int, width: int) -> Tensor:
        """The region as a mask, bool (H, W).

        Args:
            height: of the images, in pixels.
            width: likewise.
        """
        size = _side(self.width, BORDER_SHARE, height, width, "border:width")
        mask = torch.ones(height, width, dtype=torch.bool, device="cpu")
        mask[size : height - size, size : width - size] = False
        return mask


def _side(value: int | None, part: int, height: int, width: int, where: str) -> int:
    size = max(1, round(min(height, width) / part)) if value is None else value
    if size > min(height, width):
        raise InvalidInputError(f"{where} must fit into images of {height} x {width} pixels, got {size}")
    return size


@FACTORS.register("corners")
class Corners(Family):
    """The four corners of images, each by itself."""

    KINDS: ClassVar[tuple[str, ...]] = (IMAGE,)
    nature = NUISANCE
    size: Annotated[int | None, Int(ge=1, optional=True), "side in pixels; None: a quarter of the shorter side"] = None

    def members(self, x: Tensor, y: Tensor, facts: DataFacts) -> tuple[Factor, ...]:  # noqa: ARG002
        """A `Corner` for each of the four.

        Args:
            x: samples of all classes.
            y: their classes.
            facts: what is known of the data.
        """
        corner = Corner(**self.settings())
        return tuple(corner.set_kwargs(where=where) for where in CORNERS)


@FACTORS.register("cell")
class Cell(Place):
    """A cell of a grid over images."""

    rows: Annotated[int, Int(ge=1), "of the grid"] = 4
    columns: Annotated[int, Int(ge=1), "of the grid"] = 4
    row: Annotated[int, Int(ge=0), "of the cell, from the top"] = 0
    column: Annotated[int, Int(ge=0), "of the cell, from the left"] = 0

    def _check_settings(self) -> None:
        if self.row >= self.rows or self.column >= self.columns:
            raise InvalidInputError(
                f"a cell lies in its grid of {self.rows} x {self.columns} cells, counted from 0, got row={self.row}, "
                f"column={self.column}"
            )

    @property
    def title(self) -> str:
        """Such as "cell 2, 3 of 4 x 4", counted from 1."""
        return f"cell {self.row + 1}, {self.column + 1} of {self.rows} x {self.columns}"

    def mask_of(self, height: int, width: int) -> Tensor:
        """The region as a mask, bool (H, W).

        Args:
            height: of the images, in pixels.
            width: likewise.

        Raises:
            InvalidInputError: for a grid with more rows or columns than the image has pixels.
        """
        if self.rows > height or self.columns > width:
            raise InvalidInputError(
                f"a grid must have no more cells than pixels, got {self.rows} x {self.columns} cells for {height} x "
                f"{width} pixels"
            )
        in_row = torch.arange(height, device="cpu") * self.rows // height == self.row
        in_column = torch.arange(width, device="cpu") * self.columns // width == self.column
        return in_row[:, None] & in_column


@FACTORS.register("cells")
class Cells(Family):
    """The cells of a grid over images, each by itself."""

    KINDS: ClassVar[tuple[str, ...]] = (IMAGE,)
    rows: Annotated[int, Int(ge=1), "of the grid"] = 4
    columns: Annotated[int, Int(ge=1), "of the grid"] = 4

    def members(self, x: Tensor, y: Tensor, facts: DataFacts) -> tuple[Factor, ...]:  # noqa: ARG002
        """A `Cell` for each of the grid's.

        Args:
            x: samples of all classes.
            y: their classes.
            facts: what is known of the data.
        """
        cell = Cell(**self.settings())
        return tuple(cell.set_kwargs(row=i, column=j) for i in range(self.rows) for j in range(self.columns))


@FACTORS.coerce
def from_value(value: Any) -> Factor | None:
    """The region meant by a mask: a tensor, an array or a list of numbers; None for anything else."""
    return MaskedRegion(mask=value) if isinstance(value, (Tensor, list)) or is_array(value) else None

"""Splits of the inputs: which part of them is relevant, by masks or by an additive part."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.masks import REMEDY, read_mask_values, refuse_boxes
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.rules.embedding import MaskedTokens
from xaikit.explainers.cd.ruleset import Context


@dataclasses.dataclass(frozen=True)
class Split:
    """Masks, or an additive relevant part, of one input x of shape (N, ...).

    Attributes:
        values: (M, 1 or N, ...), broadcasting to (M, *x.shape).
        additive: whether the values are the relevant part itself (x = part + rest) and no mask.
        valid: (N, T), the positions of x that hold data; None if all do. Padding does not count in the undecided share.
    """

    values: Tensor
    additive: bool = False
    valid: Tensor | None = None

    @classmethod
    def of_masks(cls, masks: Any, x: Tensor) -> Split:
        """A checked split by masks.

        Args:
            masks: in [0, 1], 1 for what is relevant: (M, ...) broadcasting over the batch, or (M, N, ...).
            x: the input (N, ...).

        Raises:
            InvalidTypeError: for anything but numbers or booleans.
            InvalidInputError: for another shape, or values outside [0, 1].
        """
        raw = to_tensor(masks, "masks", remedy=REMEDY)
        refuse_boxes(raw, x, "masks")
        values = read_mask_values(raw, what="masks")
        values = values.to(x.device, x.dtype if x.is_floating_point() else torch.get_default_dtype())
        return cls(_behind_batch(values, x))

    @classmethod
    def of_part(cls, part: Any, x: Tensor) -> Split:
        """A checked split by an additive relevant part.

        Args:
            part: shaped as x or (M, *x.shape).
            x: the input (N, ...), of floats.

        Raises:
            InvalidTypeError: for a part of token ids.
            InvalidInputError: for another shape.
        """
        if not x.is_floating_point():
            raise InvalidTypeError(
                f"a relevant part is one of numbers, and the inputs are {x.dtype}; tokens take masks"
            )
        part = to_tensor(part, "the relevant part")
        values = part.to(x.device, x.dtype)
        values = values.unsqueeze(0) if values.dim() == x.dim() else values
        if values.shape[1:] != x.shape or len(values) == 0:
            raise InvalidInputError(
                f"the relevant part must have the shape of the input, {tuple(x.shape)}, or (M, *that), "
                f"got {tuple(part.shape)}"
            )
        return cls(values, additive=True)

    def take(self, masks: slice) -> Split:
        """The split for some of the masks."""
        return dataclasses.replace(self, values=self.values[masks])

    def of_samples(self, samples: Tensor | slice) -> Split:
        """The split for some of the samples."""
        values = self.values if self.values.shape[1] == 1 else self.values[:, samples]
        valid = None if self.valid is None else self.valid[samples]
        return dataclasses.replace(self, values=values, valid=valid)

    def apply(self, x: Tensor, context: Context) -> Tensor:
        """The input (N, ...) as the model is to see it: decomposed, or tokens that carry their masks."""
        if not x.is_floating_point():
            masks = self.values.expand(-1, *x.shape)
            return MaskedTokens(x, masks, self._share(self.values, 1 - self.values, x.dim(), context), context)
        if self.additive:
            relevant, irrelevant = self.values, x - self.values
            share = self._share(relevant.abs(), irrelevant.abs(), x.dim(), context)
        else:
            relevant, irrelevant = self.values * x, (1 - self.values) * x
            share = self._share(self.values, 1 - self.values, x.dim(), context)
        return Decomposed(torch.stack([relevant, irrelevant]), share, context)

    def _share(self, relevant: Tensor, irrelevant: Tensor, ndim: int, context: Context) -> Tensor:
        """The undecided share: one for each mask or, where samples differ in it, for each mask and sample."""
        if context.rules.undecided is not None:
            return torch.full((len(relevant),), context.rules.undecided, dtype=relevant.dtype, device=relevant.device)
        if self.valid is not None:
            weights = self.valid.reshape(*self.valid.shape, *[1] * (relevant.dim() - 3)).to(relevant.dtype)
            relevant, irrelevant = relevant * weights, irrelevant * weights
        sizes = [size.flatten(2).sum(2) if size.dim() > 2 else size for size in (relevant, irrelevant)]
        total = sizes[0] + sizes[1]
        share = torch.where(total > 0, sizes[0] / torch.where(total > 0, total, 1), 0.5)
        # The short form is for the speed of a CPU. On another device, to find out would mean to wait for it.
        if share.shape[1] == 1 or (share.device.type == "cpu" and bool((share == share[:, :1]).all())):
            return share[:, 0]
        return share.reshape(*share.shape, *[1] * (ndim - 1))


def _behind_batch(values: Tensor, x: Tensor) -> Tensor:
    """Masks with a batch axis of size 1 or N behind the mask axis, and all dimensions of x behind that."""
    rank = values.dim() - 1
    # Of images (N, C, H, W) a mask holds two axes at least: one of (H, W) would pass for H masks of their columns.
    fits = (1 if x.dim() < 4 else 2) <= rank <= x.dim() and len(values) > 0
    if fits:
        full = values.reshape(len(values), *[1] * (x.dim() - rank), *values.shape[1:])
        fits = all(size in (1, extent) for size, extent in zip(full.shape[1:], x.shape, strict=True))
    if not fits:
        takes = f"(M, ...) broadcasting to {(*x.shape[1:],)}, or (M, {len(x)}, ...) with one for each sample"
        raise InvalidInputError(f"masks must have shape {takes}, got {tuple(values.shape)}{_mistaken(values, x)}")
    return full


def _mistaken(values: Tensor, x: Tensor) -> str:
    """What the masks look like, where they would suit another kind of model."""
    shape = tuple(values.shape[1:])
    if values.shape in (x.shape[1:], x.shape[2:]):
        return "; of a single mask pass mask[None]"
    if x.is_floating_point() and x.dim() == 3 and shape in ((x.shape[1],), (len(x), x.shape[1])):
        return (
            f"; this looks like a token mask, but the inputs are numbers: {x.shape[1]} positions of {x.shape[2]} "
            "values take masks with a last dimension of 1"
        )
    token = (tuple(x.shape[1:]), tuple(x.shape[:-1]))
    if not x.is_floating_point() and len(shape) >= x.dim() and shape[: x.dim() - 1] in token:
        return (
            "; this looks like a mask of embeddings or other numbers, but the inputs are token ids, which are relevant "
            "or not as a whole"
        )
    return ""


def common_count(splits: Sequence[Split | None]) -> int:
    """The number of masks that the splits of all inputs share."""
    counts = {len(split.values) for split in splits if split is not None}
    if len(counts) != 1:
        raise InvalidInputError(f"the masks of the inputs must be equally many, got {sorted(counts)}")
    return counts.pop()

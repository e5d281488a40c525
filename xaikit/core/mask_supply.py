"""Masks for all of some data, handed out batch by batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from xaikit.core.arrays import is_array
from xaikit.core.errors import InvalidInputError
from xaikit.core.loader_order import order_of_its_own
from xaikit.core.masks import WHAT, read_masks
from xaikit.core.structure import flatten


class MaskSupply:
    """Masks for all of the data, handed out batch by batch in the order of the samples.

    Args:
        masks: one for all samples, or one for each; None for none.
        data: where the batches come from; a loader in an order of its own cannot have a mask for each sample.
        what: name of the masks in messages.
    """

    def __init__(self, masks: Any, data: Any, what: str = WHAT) -> None:
        self._masks, self._what, self._used = masks, what, 0
        self._count: int | None = None  # of masks, where there is one for each sample
        self._order = order_of_its_own(data)

    def next(self, inputs: Any) -> Any:
        """The masks of the next batch.

        Args:
            inputs: of the batch.

        Raises:
            InvalidInputError: for too few masks, or another order than the data set's.
        """
        n = len(flatten(inputs)[0][0])
        if self._masks is None:
            return None
        if self._used == 0:
            self._count = mask_count(self._masks, inputs)
            if self._count is not None and self._order:
                raise InvalidInputError(
                    f"{self._what} with one for each sample need the samples in order, and {self._order}; "
                    "put the masks into the data set, or pass a loader with shuffle=False"
                )
        begin, self._used = self._used, self._used + n
        if self._count is None:
            return read_masks(self._masks, inputs, what=self._what)
        if self._used > self._count:
            raise InvalidInputError(
                f"{self._what} must hold one for each sample of the data, got {self._count}, and there are more samples"
            )
        return read_masks(select_masks(self._masks, range(begin, self._used)), inputs, what=self._what)

    def finish(self) -> None:
        """Call after the last batch.

        Raises:
            InvalidInputError: for more masks than samples.
        """
        if self._count is not None and self._used != self._count:
            raise InvalidInputError(
                f"{self._what} must hold one for each of the {self._used} samples of the data, got {self._count}"
            )


def mask_count(masks: Any, inputs: Any) -> int | None:
    """How many masks there are, where there is one for each sample of some data; None for one for all samples.

    Args:
        masks: as for `read_masks`, for all of the data.
        inputs: of some samples of the data.
    """
    first = masks
    x = flatten(inputs)[0][0]
    if isinstance(masks, Mapping) or (isinstance(masks, tuple) and any(is_array(m) for m in masks)):
        key: Any = next(iter(masks), None) if isinstance(masks, Mapping) else 0
        first = masks[key] if masks else None
        if isinstance(inputs, Mapping) and isinstance(inputs.get(key), Tensor):
            x = inputs[key]
    if isinstance(first, list) and any(m is None or is_array(m) for m in first):
        return len(first)
    shape = tuple(getattr(first, "shape", ())) or _list_shape(first)
    one_for_all = len(shape) <= max(1, x.ndim - 2) or shape[0] == 1
    return None if one_for_all else shape[0]


def _list_shape(value: Any) -> tuple[int, ...]:
    shape = []
    while isinstance(value, (list, tuple)):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def select_masks(masks: Any, rows: Sequence[int]) -> Any:
    """The masks of some samples, in the form in which they came.

    Args:
        masks: one for each sample, in any form that `read_masks` takes.
        rows: indices of the samples.
    """
    if isinstance(masks, Mapping):
        return {key: select_masks(mask, rows) for key, mask in masks.items()}
    if isinstance(masks, tuple) and any(is_array(m) for m in masks):
        return tuple(select_masks(mask, rows) for mask in masks)
    if isinstance(masks, (list, tuple)):
        return [masks[row] for row in rows]
    return masks.iloc[list(rows)] if hasattr(masks, "iloc") else masks[list(rows)]

"""Reading the batches of a training, with the masks for all of the data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch import nn

from xaikit.core.batch import Batch, read_batch
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.mask_supply import mask_count, select_masks
from xaikit.core.masks import WHAT, read_masks


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads the batches of the data.

    Attributes:
        model: whose precision arrays get.
        needs_mask: whether a batch without masks is refused.
        by_class: whether there is one mask for each class instead of one for each sample.
        masks: for all of the data, in place of those in the data; or None.
        free_labels: whether the labels are for a loss of the user's: any numbers, (N, ...).
        check: whether the inputs must be finite.
        what: name of the masks in messages: the mitigator's keyword.
    """

    model: nn.Module
    needs_mask: str = ""  # name of the mitigator that needs masks, for the message; empty if none does
    by_class: bool = False
    masks: Any = None
    free_labels: bool = False
    check: bool = False  # training skips batches that are not finite, and says which
    what: str = WHAT

    def __call__(self, item: Any) -> Batch:
        """The batch that an item of the data holds; masks for each sample are added elsewhere (`IndexedMasks`).

        Args:
            item: (inputs, labels) or (inputs, labels, masks).
        """
        if self.masks is not None and self.by_class and isinstance(item, (tuple, list)):
            item = (*item[:2], self.masks)
        options: dict[str, Any] = {"check": self.check, "free_labels": self.free_labels, "masks": self.what}
        batch = read_batch(item, self.model, by_class=self.by_class, **options)
        if self.needs_mask and batch.masks is None and self.masks is None:
            raise missing_masks(self.needs_mask)
        return batch

    @property
    def sample_masks(self) -> Any:
        """The masks for all of the data, if there is one for each sample; else None."""
        return None if self.by_class else self.masks


def missing_masks(mitigator: str) -> InvalidTypeError:
    """The error of a batch without masks.

    Args:
        mitigator: name of the one that needs them.
    """
    return InvalidTypeError(
        f"{mitigator} must be told where: a batch is (inputs, labels, masks), got None for the masks"
    )


class IndexedMasks:
    """Masks for all of a data set, assigned to samples by their indices, so the samples may come in any order."""

    def __init__(self, reader: Reader, dataset: Any) -> None:
        self._masks, self._what = reader.sample_masks, reader.what
        self._dataset = dataset
        self._count: int | None = None
        self._counted = False

    def put(self, batch: Batch, rows: Sequence[Any]) -> Batch:
        """The batch with the masks of its samples."""
        if self._masks is None:
            return batch
        if not self._counted:
            self._counted, self._count = True, mask_count(self._masks, batch.inputs)
            if self._count not in (None, len(self._dataset)):
                raise InvalidInputError(
                    f"{self._what} must hold one for each of the {len(self._dataset)} samples of the data, got "
                    f"{self._count}"
                )
        chosen = self._masks if self._count is None else select_masks(self._masks, [int(row) for row in rows])
        return batch._replace(masks=read_masks(chosen, batch.inputs, what=self._what))

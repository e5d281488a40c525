"""The samples of an evaluation: read once, so that every explainer meets the same ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xaikit.core import structure
from xaikit.core.errors import InvalidInputError, InvalidTypeError


class Batch(NamedTuple):
    """Inputs with their targets, and the masks of where their relevance should lie, if there are any."""

    inputs: Any
    targets: Any
    masks: Any = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(structure.flatten(self.inputs)[0][0])

    def to(self, device: torch.device) -> Batch:
        """The batch with its inputs on that device."""
        tensors, rebuild = structure.flatten(self.inputs)
        return self._replace(inputs=rebuild(tuple(t.to(device) for t in tensors)))


def read(data: Any) -> list[Batch]:
    """The batches of ``(inputs, targets)``, of ``(inputs, targets, masks)``, or of a loader or list of either.

    Raises:
        InvalidTypeError: for anything else.
        InvalidInputError: when it is empty, or a batch is.
    """
    items: Iterable[Any]
    if isinstance(data, tuple) and not _holds_batches(data):
        items = [data]
    elif isinstance(data, torch.utils.data.Dataset):
        raise InvalidTypeError("data must come in batches; wrap the dataset in a torch.utils.data.DataLoader")
    elif isinstance(data, Iterable) and not isinstance(data, (Tensor, str, dict)):
        items = data
    else:
        raise InvalidTypeError(_message(data))
    found = [_batch(item) for item in items]
    if not found:
        raise InvalidInputError("data holds no batch")
    return found


def _batch(item: Any) -> Batch:
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        raise InvalidTypeError(_message(item))
    structure.check_batch(structure.flatten(item[0])[0])
    return Batch(*item)


def _holds_batches(data: tuple[Any, ...]) -> bool:
    """Whether a tuple holds batches, rather than being one: then its second item is a tuple of tensors itself."""
    if len(data) not in (2, 3):
        return True
    return isinstance(data[1], (tuple, list)) and any(isinstance(item, Tensor) for item in data[1])


def _message(got: Any) -> str:
    size = f" of {len(got)}" if isinstance(got, (tuple, list)) else ""
    return (
        "data must be (inputs, targets) or (inputs, targets, masks), or a loader or list of such batches, "
        f"got {type(got).__name__}{size}"
    )

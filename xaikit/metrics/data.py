"""The samples of an evaluation, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def stream(data: Any) -> Iterator[Batch]:
    """The batches of ``(inputs, targets)``, of ``(inputs, targets, masks)``, or of a loader or list of either.

    Raises:
        InvalidTypeError: for anything else.
        InvalidInputError: when it is empty, or a batch is.
    """
    if isinstance(data, torch.utils.data.Dataset):
        raise InvalidTypeError("data must come in batches; wrap the dataset in a torch.utils.data.DataLoader")
    if not _is_batch(data) and (not isinstance(data, Iterable) or isinstance(data, (Tensor, str, dict))):
        raise InvalidTypeError(_message(data))
    empty = True
    for item in [data] if _is_batch(data) else data:
        empty = False
        yield _batch(item)
    if empty:
        raise InvalidInputError("data holds no batch")


def read(data: Any) -> list[Batch]:
    """All batches, for those who look at them several times; raises as `stream` does."""
    return list(stream(data))


def number_of_batches(data: Any) -> int | None:
    """How many there will be, where that is known."""
    if _is_batch(data):
        return 1
    try:
        return len(data)
    except TypeError:
        return None


def _batch(item: Any) -> Batch:
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        raise InvalidTypeError(_message(item))
    structure.check_batch(structure.flatten(item[0])[0])
    return Batch(*item)


def _is_batch(data: Any) -> bool:
    """Whether a tuple is a batch, rather than holding some: then its second item would be a tuple of tensors itself."""
    if not isinstance(data, tuple) or len(data) not in (2, 3):
        return False
    return not (isinstance(data[1], (tuple, list)) and any(isinstance(item, Tensor) for item in data[1]))


def _message(got: Any) -> str:
    size = f" of {len(got)}" if isinstance(got, (tuple, list)) else ""
    return (
        "data must be (inputs, targets) or (inputs, targets, masks), or a loader or list of such batches, "
        f"got {type(got).__name__}{size}"
    )

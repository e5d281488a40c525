"""The samples of a search: read once, so that every trial meets the same ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from xaikit.core import structure
from xaikit.core.errors import InvalidInputError, InvalidTypeError

Batch = tuple[Any, Any]


def batches(data: Any, device: torch.device) -> list[Batch]:
    """Pairs (inputs, targets) on the model's device.

    Args:
        data: one pair as a tuple, or a loader or list of pairs; targets None for a model with a single output.
        device: where the inputs go.

    Raises:
        InvalidTypeError: for anything else.
        InvalidInputError: when it is empty, or a batch is.
    """
    pairs: Iterable[Any]
    if isinstance(data, tuple) and not _is_pair_list(data):
        pairs = [data]
    elif isinstance(data, torch.utils.data.Dataset):
        raise InvalidTypeError("data must come in batches; wrap the dataset in a torch.utils.data.DataLoader")
    elif isinstance(data, Iterable) and not isinstance(data, (Tensor, str, dict)):
        pairs = data
    else:
        raise InvalidTypeError(_message(data))
    found = [_batch(pair, device) for pair in pairs]
    if not found:
        raise InvalidInputError("data holds no batch")
    return found


def _batch(pair: Any, device: torch.device) -> Batch:
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise InvalidTypeError(_message(pair))
    tensors, rebuild = structure.flatten(pair[0])
    structure.check_batch(tensors)
    return rebuild(tuple(t.to(device) for t in tensors)), pair[1]


def _is_pair_list(data: tuple[Any, ...]) -> bool:
    """Whether a tuple holds batches, rather than being one: then its second item is a pair itself."""
    return len(data) != 2 or (isinstance(data[1], (tuple, list)) and any(isinstance(x, Tensor) for x in data[1]))


def _message(got: Any) -> str:
    return (
        "data must be a pair (inputs, targets), or a loader or list of such batches, "
        f"got {type(got).__name__}{f' of {len(got)}' if isinstance(got, (tuple, list)) else ''}"
    )

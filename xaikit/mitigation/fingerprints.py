"""By what a checkpoint knows the data of a training again: a hash of the samples in memory, or of what names them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor


def held_tensors(data: Any) -> list[Tensor]:
    """The tensors, arrays and numbers of nested lists, tuples and dicts; of nothing else, which might read anything.

    Args:
        data: of the user.
    """
    if isinstance(data, Tensor):
        return [data] if data.layout == torch.strided else []
    is_plain = isinstance(data, (np.ndarray, np.number)) and data.dtype.kind in "biuf"
    if is_plain or isinstance(data, (bool, int, float)):
        return [torch.tensor(np.ascontiguousarray(data), device="cpu")]
    if isinstance(data, Mapping):
        data = list(data.values())
    return [tensor for part in data for tensor in held_tensors(part)] if isinstance(data, (list, tuple)) else []


def attribute_hash(data: Any) -> dict[str, str]:
    """A hash of what a data set of single samples holds in memory; empty where that is nothing that stays as it is.

    Private attributes count, too; what is called a cache does not, since it may fill while it is read.

    Args:
        data: the data set.
    """
    if content := getattr(data, "content_hash", None):
        return {"content": str(content)}
    attributes = getattr(data, "__dict__", {})
    tensors = [t for n, value in attributes.items() if "cache" not in n.lower() for t in _attribute_tensors(value)]
    return {"content": hash_of(tensors)} if tensors else {}


def _attribute_tensors(value: Any) -> list[Tensor]:
    """What an attribute holds of samples: tensors, arrays, frames, names and numbers; nothing of other objects."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in "biuf":
        value = value.tolist()
    if isinstance(value, (Tensor, np.ndarray)):
        return held_tensors(value)
    if hasattr(value, "to_numpy") and hasattr(value, "to_csv"):  # of pandas
        return _as_bytes(value.to_csv())
    if not isinstance(value, (list, tuple, dict)) or not value:
        return []
    if _is_plain(value):
        return _as_bytes(repr(value))
    parts = list(value.values()) if isinstance(value, dict) else value
    return [t for part in parts if isinstance(part, (Tensor, np.ndarray)) for t in held_tensors(part)]


def _is_plain(value: Any) -> bool:
    """Whether a value is made of texts, paths and numbers, so that its repr says all of it."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (str, bytes, bool, int, float, np.number, PurePath))


def _as_bytes(text: str) -> list[Tensor]:
    return [torch.tensor(np.frombuffer(text.encode(), dtype=np.uint8), device="cpu")]


def hash_of(tensors: Iterable[Tensor]) -> str:
    """A hash of values, shapes and types, 16 digits.

    Args:
        tensors: in their order.
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)  # bytes, since numpy knows no bfloat16
    return digest.hexdigest()[:16]

"""Fingerprints of samples and models: whether they are those that something was computed of."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import structure
from xaikit.core.batch import Batch
from xaikit.core.masks import leaves_of


def fingerprint_of_data(data: list[Batch]) -> str:
    """Number and hash of the samples; a study can only be continued on the same ones."""
    digest, count = hashlib.blake2b(digest_size=6), 0
    for batch in data:
        targets = batch.labels
        tensors = structure.flatten(batch.inputs)[0] + leaves_of(batch.masks)
        count += batch.size
        extra = (
            targets
            if isinstance(targets, Tensor)
            else torch.as_tensor(targets, device="cpu")
            if _is_numbers(targets)
            else None
        )
        for tensor in (*tensors, *(() if extra is None else (extra,))):
            _update(digest, tensor)
        if extra is None:
            digest.update(getattr(targets, "__qualname__", repr(targets)).encode())
    return f"{count} samples in {len(data)} batches ({digest.hexdigest()})"


def fingerprint_of_model(model: nn.Module) -> str:
    """Class and hash of a model: it differs after another training."""
    digest = hashlib.blake2b(digest_size=6)
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        if isinstance(tensor, Tensor):
            _update(digest, tensor)
    return f"{type(model).__name__} ({digest.hexdigest()})"


def fingerprint_of_tensor(tensor: Tensor) -> str:
    """Hash of a tensor's form, type and values."""
    digest = hashlib.blake2b(digest_size=6)
    _update(digest, tensor)
    return digest.hexdigest()


def _is_numbers(value: Any) -> bool:
    return isinstance(value, int) or (isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value))


def _update(digest: Any, tensor: Tensor) -> None:
    plain = tensor.detach().cpu().contiguous()
    digest.update(f"{tuple(plain.shape)} {plain.dtype}".encode())
    digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")

"""Weights of models as files hold them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from xaikit.core.archives import check_archive
from xaikit.core.errors import InvalidInputError, MissingDependencyError
from xaikit.core.files import check_is_file
from xaikit.core.process_wide import warnings_ignored


def read_weights(path: Path) -> dict[str, Any]:
    """The tensors in a file, by name; code in it is never run.

    Args:
        path: written by `torch.save` (a state dict, by itself or under "model" or "state_dict"), or ``.safetensors``.

    Raises:
        InvalidInputError: for a file that holds anything but weights.
        MissingDependencyError: for ``.safetensors`` where that library is absent.
    """
    check_is_file(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    check_archive(path)
    if not path.stat().st_size:
        raise InvalidInputError(f"{path} is empty; save model.state_dict() with torch.save, or as .safetensors")
    try:
        with warnings_ignored():  # torch asks to report the pickles of others to it
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not _may_be_weights(path):
            raise InvalidInputError(
                f"{path} is not a file of weights of PyTorch: it begins neither as torch.save writes nor as "
                ".safetensors; save model.state_dict() with torch.save"
            ) from None
        raise InvalidInputError(
            f"{path} holds more than weights (a whole pickled model?), and loading that could run any code; save "
            f"model.state_dict() with torch.save, or as .safetensors"
        ) from None
    except Exception as err:  # noqa: BLE001 - a file may hold anything, and whatever that raises is a finding about the file
        if "TorchScript" in str(err):
            raise InvalidInputError(
                f"{path} holds a TorchScript model, and weights are needed; save the state_dict() of the model that it "
                "was made from with torch.save"
            ) from None
        raise InvalidInputError(
            f"{path} is not a file of weights ({' '.join(str(err).split())[:120]}); save model.state_dict() with "
            "torch.save"
        ) from None
    for key in ("model", "state_dict", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise InvalidInputError(f"{path} holds no state dict (tensors by parameter name); save model.state_dict()")
    return dict(content)


def _may_be_weights(path: Path) -> bool:
    """Whether a file begins as torch.save begins: with a zip archive, or with a pickle."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04")


def _read_safetensors(path: Path) -> dict[str, Any]:
    try:
        import safetensors
        from safetensors.torch import load_file
    except ImportError:
        raise MissingDependencyError("reading .safetensors needs it: pip install 'xaikit[cli]'") from None
    try:
        return load_file(path)
    except safetensors.SafetensorError as err:
        raise InvalidInputError(f"{path} is not a .safetensors file ({err})") from None

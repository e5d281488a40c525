"""Converting results to plain values and files, and back.

A file is JSON, or holds its tensors as arrays (``.npz``, ``.safetensors``) beside that JSON.
"""

from __future__ import annotations

import dataclasses
import enum
import io
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xaikit.core.archives import check_unpacked_size
from xaikit.core.configured import Configured
from xaikit.core.errors import InvalidInputError, MissingDependencyError
from xaikit.core.files import write_whole
from xaikit.core.setting_json import TENSOR, tensor_from_json, tensor_to_json

ARRAY, ITEMS = "$array", "$items"  # keys of a dict that stands for what JSON cannot hold
ARRAY_SUFFIXES = (".npz", ".safetensors")
PLAIN_NUMPY = {torch.bfloat16: torch.float32}  # types that numpy does not know, and one that holds their values exactly

SaveTensor = Callable[[str, Tensor], dict[str, Any]]


def encode(value: Any, where: str, save_tensor: SaveTensor) -> Any:  # noqa: PLR0911 - one return for each kind of value
    """A value as plain JSON values; NaN becomes null, and `save_tensor` says what stands for a tensor.

    Args:
        value: numbers, text, tensors, arrays, objects with a spec, dataclasses, and collections of these.
        where: names the value in messages and the arrays in a file.
        save_tensor: from the name of a tensor and the tensor to what stands for it.

    Raises:
        InvalidInputError: for a function, a module, or whatever else no file can hold.
    """
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (Tensor, np.ndarray)):
        if isinstance(value, Tensor):
            return save_tensor(where, value.detach().cpu())
        return {**save_tensor(where, torch.from_numpy(np.ascontiguousarray(value))), "numpy": True}
    if isinstance(value, np.generic):
        return encode(value.item(), where, save_tensor)
    if isinstance(value, Configured):
        return value.spec()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: encode(getattr(value, f.name), f"{where}.{f.name}", save_tensor)
            for f in dataclasses.fields(value)
            if f.compare
        }
    if isinstance(value, Mapping):
        items = [[key, encode(item, f"{where}.{key}", save_tensor)] for key, item in value.items()]
        plain = all(isinstance(key, str) and key not in (TENSOR, ARRAY, ITEMS) for key, _ in items)
        return dict(items) if plain else {ITEMS: items}
    if isinstance(value, (list, tuple)):
        return [encode(item, f"{where}.{i}", save_tensor) for i, item in enumerate(value)]
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise InvalidInputError(f"{where} is a {type(value).__name__}, which no file can hold")


def decode(value: Any, arrays: Mapping[str, Any] | None = None) -> Any:
    """What `encode` was given, except that tuples are lists, and dataclasses and objects with a spec are dicts."""
    if isinstance(value, Mapping):
        if ITEMS in value:
            return {key: decode(item, arrays) for key, item in value[ITEMS]}
        if TENSOR in value or ARRAY in value:
            tensor = arrays[value[ARRAY]] if ARRAY in value and arrays is not None else tensor_from_json(value)
            dtype = getattr(torch, value["dtype"])
            tensor = torch.view_as_complex(tensor) if dtype.is_complex and not tensor.is_complex() else tensor.to(dtype)
            return tensor.numpy() if value.get("numpy") else tensor
        return {key: decode(item, arrays) for key, item in value.items()}
    return [decode(item, arrays) for item in value] if isinstance(value, list) else value


def inline(_name: str, tensor: Tensor) -> dict[str, Any]:
    """A tensor as a list of its numbers, with shape and type."""
    return tensor_to_json(tensor)


def write(path: str | Path, encode_state: Callable[[SaveTensor], dict[str, Any]]) -> Path:
    """Write a result's state whole or not at all; the ending of the name says how.

    Args:
        path: ends in ``.npz`` or ``.safetensors`` for arrays; anything else is JSON, with tensors only in ``.json``.
        encode_state: from a `save_tensor` as of `encode` to the state.

    Raises:
        InvalidInputError: for tensors under another ending.
    """
    path = Path(path)

    def refused(_name: str, _tensor: Tensor) -> dict[str, Any]:
        raise InvalidInputError(
            f"a result that holds tensors is saved as .npz, .safetensors or .json, got {path.name!r}"
        )

    if path.suffix not in ARRAY_SUFFIXES:
        state = encode_state(inline if path.suffix == ".json" else refused)
        return write_whole(path, json.dumps(state, indent=1, allow_nan=False) + "\n")
    arrays: dict[str, Tensor] = {}

    def beside(name: str, tensor: Tensor) -> dict[str, Any]:
        arrays[name] = tensor
        return {ARRAY: name, "dtype": _name_of(tensor.dtype)}

    meta = json.dumps(encode_state(beside), allow_nan=False)
    if path.suffix == ".npz":
        buffer = io.BytesIO()
        plain = {k: t.to(PLAIN_NUMPY.get(t.dtype, t.dtype)).numpy() for k, t in arrays.items()}
        np.savez(buffer, meta=np.array(meta), **plain)  # type: ignore[arg-type]
        return write_whole(path, buffer.getvalue())
    # safetensors before 0.7 knows no complex numbers: they are pairs (..., 2) in the file.
    pairs = {k: torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for k, t in arrays.items()}
    return write_whole(path, _safetensors().save({k: t.contiguous() for k, t in pairs.items()}, {"meta": meta}))


def read(path: str | Path) -> tuple[Any, dict[str, Tensor]]:
    """The state in a file, not yet decoded, and the arrays beside it.

    Raises:
        InvalidInputError: for a damaged file, or one that xaikit did not write.
        OSError: where there is no such file.
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # reading a pipe would wait for a writer for ever
        raise InvalidInputError("it is not a file")
    with path.open("rb"):  # a file that is not there says so itself
        pass
    try:
        if path.suffix == ".npz":
            check_unpacked_size(path)
            # An open file, since numpy leaves a damaged one open that it opened itself.
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return json.loads(str(file["meta"])), {k: torch.from_numpy(file[k]) for k in file.files if k != "meta"}
        if path.suffix == ".safetensors":
            with _safetensors().safe_open(path, framework="pt") as file:
                return json.loads(file.metadata()["meta"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        return json.loads(path.read_text(encoding="utf-8")), {}
    except MissingDependencyError:
        raise
    except Exception as err:  # damaged bytes make numpy, zipfile and json raise whatever they meet first
        raise InvalidInputError(f"the file is damaged, or xaikit did not write it ({_first_line(err)})") from err


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(err: Exception) -> str:
    text = (str(err).strip().splitlines() or [""])[0]
    return f"{type(err).__name__}: {text[:120]}" if text else type(err).__name__


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as err:
        raise MissingDependencyError(".safetensors needs safetensors: pip install safetensors, or use .npz") from err
    return type("safetensors", (), {"save": staticmethod(safetensors.torch.save), "safe_open": safetensors.safe_open})

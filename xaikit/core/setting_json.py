"""Converting settings to plain JSON values in a spec, and back.

What JSON has no value for is a dict with a special key: ``{"$tensor": [...], "shape": [...], "dtype": "int64"}``,
``{"$float": "inf"}``, and ``{"$items": [[0, "class"]]}`` for whole numbers as keys. Tuples and lists are lists; a
setting that wants a tuple makes one of a list. An object with a spec of its own, such as a baseline inside an
explainer, is that spec.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError

TENSOR, FLOAT, ITEMS = "$tensor", "$float", "$items"


@runtime_checkable
class HasSpec(Protocol):
    """Whatever has a spec: explainers, metrics, mitigators, transforms."""

    def spec(self) -> dict[str, Any]:
        """Name and settings as plain JSON values."""


def to_json(value: Any, where: str) -> Any:  # noqa: PLR0911 - one return for each kind of value
    """A setting as plain JSON values, which `from_json` turns back.

    Args:
        value: numbers, text, tensors, arrays, objects with a spec, and lists, tuples and dicts of these.
        where: the name of the setting, for messages.

    Raises:
        InvalidInputError: for a function, a module, or whatever else no JSON can hold.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {FLOAT: str(value)}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return tensor_to_json(torch.as_tensor(value, device="cpu"))
    if isinstance(value, (tuple, list)):
        return [to_json(v, where) for v in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: to_json(v, where) for key, v in value.items()}
        if all(isinstance(key, (str, int)) for key in value):
            return {ITEMS: [[key, to_json(v, where)] for key, v in value.items()]}
        raise InvalidInputError(
            f"{where} is a dict with keys that are neither text nor numbers, which a spec cannot hold"
        )
    if isinstance(value, HasSpec) and not isinstance(value, type):
        return value.spec()
    raise InvalidInputError(
        f"{where} is a {type(value).__name__}, which a spec cannot hold; leave it out and set it again with set_kwargs"
    )


def from_json(value: Any) -> Any:  # noqa: PLR0911 - likewise
    """What `to_json` was given; tuples come back as lists, and objects with a spec as their specs.

    Args:
        value: plain JSON values.
    """
    if isinstance(value, list):
        return [from_json(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if TENSOR in value:
        return tensor_from_json(value)
    if set(value) == {"tensor", "dtype"}:  # as xaikit 0.1 wrote it
        return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]), device="cpu")
    if set(value) == {FLOAT}:
        return float(value[FLOAT])
    if set(value) == {ITEMS}:
        return {key: from_json(item) for key, item in value[ITEMS]}
    return {key: from_json(item) for key, item in value.items()}


def tuples_for_lists(value: Any) -> Any:
    """The value with every list in it as a tuple, and numpy's numbers as Python's: nobody changes a setting in place.

    Args:
        value: anything; lists are looked for in lists, tuples and dicts.
    """
    if isinstance(value, dict):
        return {key: tuples_for_lists(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(tuples_for_lists, value)) if type(value) in (list, tuple) else value


def tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    """A tensor as a flat list of its numbers, with shape and type. Infinities and NaN are text.

    Args:
        tensor: of any type and device.
    """
    plain = tensor.detach().cpu()
    is_complex = plain.is_complex()
    numbers = (torch.view_as_real(plain.resolve_conj()) if is_complex else plain).flatten().tolist()
    if plain.is_floating_point() or is_complex:
        numbers = [number if math.isfinite(number) else str(number) for number in numbers]
    return {TENSOR: numbers, "shape": list(plain.shape), "dtype": str(plain.dtype).removeprefix("torch.")}


def tensor_from_json(value: Mapping[str, Any]) -> Tensor:
    """The tensor that `tensor_to_json` wrote, on the CPU.

    Args:
        value: numbers, shape and type.
    """
    dtype, shape, numbers = getattr(torch, value["dtype"]), value["shape"], value[TENSOR]
    if dtype.is_complex:
        pairs = torch.tensor([float(v) for v in numbers], dtype=torch.float64, device="cpu").view(*shape, 2)
        return torch.view_as_complex(pairs).to(dtype)
    if dtype.is_floating_point:
        return torch.tensor([float(v) for v in numbers], dtype=torch.float64, device="cpu").view(shape).to(dtype)
    return torch.tensor(numbers, dtype=dtype, device="cpu").view(shape)

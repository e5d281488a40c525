"""The one reader of inputs: what users hand to a model, as tensors that the model can take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.arrays import is_array, model_float_type, to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError


def read_inputs(inputs: Any, model: nn.Module | None = None, *, move: bool = True, what: str = "inputs") -> Any:
    """Inputs as a tensor, a tuple or list of tensors, or a dict of tensors.

    Tensors stay as they are: their precision and their device are the user's choice. Numpy arrays, lists and pandas
    objects have float64 by default and no device. So their floating-point numbers are cast to the precision of the
    model, and all of them are put on its device. Integers become int64, as embeddings want them. All columns of a
    DataFrame are features, so that its integers and booleans become floating-point numbers too.

    Args:
        inputs: a tensor, an array, a nested list of numbers, a DataFrame or a Series, (N, ...); or several inputs of
            one model as a tuple, a list of arrays, or a mapping such as a dict or Hugging Face's `BatchEncoding`.
            Nested lists of plain numbers are one input, lists of arrays or tensors are several.
        model: whose precision and device are used; None takes torch's default precision and the CPU.
        move: put arrays on the model's device; else they stay on the CPU.
        what: name of the inputs in messages.

    Returns:
        The same structure with tensors; any mapping as a dict.

    Raises:
        InvalidTypeError: for strings, objects, complex numbers.
        InvalidInputError: for ragged lists, and for a list, a tuple or a mapping that is empty.
    """
    if isinstance(inputs, (Mapping, tuple, list)) and not inputs:
        raise InvalidInputError(f"{what} holds no tensor")
    if isinstance(inputs, Tensor) or _holds_tensors_only(inputs):
        return inputs
    dtype, device = model_float_type(model)
    device = device if move else torch.device("cpu")

    def read(value: Any, name: str) -> Tensor:
        if isinstance(value, Tensor):
            return value
        if value is None or isinstance(value, (str, bytes, Mapping)) or callable(value):
            got = f"{type(value).__name__} inside a {type(inputs).__name__}" if name != what else type(value).__name__
            raise InvalidTypeError(f"{what} must hold tensors or arrays of numbers, got {got}")
        tensor = to_tensor(value, name, remedy="; turn them into numbers first")
        return tensor.to(device, dtype if tensor.is_floating_point() else None)

    if isinstance(inputs, Mapping):
        return {key: read(value, f"{what}[{key!r}]") for key, value in inputs.items()}
    if isinstance(inputs, (tuple, list)) and is_several(inputs):
        parts = [read(value, f"{what}[{i}]") for i, value in enumerate(inputs)]
        return parts if type(inputs) is list else tuple(parts)
    return read(inputs, what)


def complex_inputs_error(dtype: torch.dtype) -> InvalidTypeError:
    """The error for complex inputs where a method takes none."""
    return InvalidTypeError(
        f"inputs of {dtype} are complex; pass torch.view_as_real(inputs) to a model that takes real and imaginary "
        "parts in the last axis"
    )


def is_several(inputs: tuple[Any, ...] | list[Any]) -> bool:
    """Whether a tuple or a list holds several inputs of a model, rather than the numbers of one."""
    if any(is_array(item) for item in inputs):
        return True
    return isinstance(inputs, tuple) and any(isinstance(item, (list, tuple, Mapping)) for item in inputs)


def _holds_tensors_only(inputs: Any) -> bool:
    if type(inputs) is dict:
        return bool(inputs) and all(isinstance(value, Tensor) for value in inputs.values())
    several = type(inputs) in (tuple, list) and bool(inputs)
    return several and all(isinstance(value, Tensor) and value.ndim > 0 for value in inputs)

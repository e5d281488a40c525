"""A copy of a user's model that is trained in its place."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError


def trainable_copy(model: nn.Module) -> nn.Module:
    """A deep copy with weights of its own, which can be trained where those of the model can.

    Activations that a model keeps, and weights that `torch.nn.utils.weight_norm` has computed, belong to a graph and
    cannot be copied as they are; their values are. A copied script module's weights are leaves of the graph again.

    Args:
        model: of the user; it stays as it is.

    Raises:
        InvalidInputError: for a model that holds what cannot be copied, such as a lock or an open file.
    """
    memo = {
        id(value): value.detach().clone()
        for module in model.modules()
        for attribute in vars(module).values()
        for value in _tensors(attribute)
        if not value.is_leaf
    }
    try:
        with torch.no_grad():
            copied = copy.deepcopy(model, memo)
    except Exception as error:
        raise InvalidInputError(
            f"a copy of the model is trained, and {type(model).__name__} cannot be copied ({error}); take what is no "
            "weight out of it meanwhile, or give it a __deepcopy__"
        ) from error
    for weight, original in zip(copied.parameters(), model.parameters(), strict=True):
        weight.requires_grad_(original.requires_grad)
    return copied


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)

"""Padding: finding the positions of a sequence that hold data, since only these count in the share of a mask."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.call import Call
from xaikit.explainers.cd.splits import Split

MASK_NAMES = ("mask", "keep", "valid")
LENGTH_NAMES = ("length", "lens")


def without_padding(splits: Sequence[Split | None], call: Call) -> list[Split | None]:
    """The splits, with the positions of their inputs that hold data.

    An argument of the model says which they are if its name holds "mask", "keep" or "valid" and it is (N, T) of zeros
    and ones, such as `attention_mask`; one of truth values whose name also holds "pad" (torch's `key_padding_mask`) is
    True at padding. An argument named "length" or "lens" of whole numbers (N,) counts the positions from the left.
    Where no argument says so, token ids equal to the `padding_idx` of the model's embedding are padding.
    """
    arguments, by_ids = _named_arguments(call), _valid_ids(call)
    result: list[Split | None] = []
    for i, (split, x) in enumerate(zip(splits, call.inputs, strict=True)):
        if split is None or x.dim() < 2:
            result.append(split)
            continue
        masks = {name: mask for name, value in arguments.items() if (mask := _positions(name, value, x)) is not None}
        # a model with an encoder and a decoder takes a mask for each
        decodes = not call.layers and i < len(call.input_names) and "decoder" in call.input_names[i]
        suitable = [mask for name, mask in masks.items() if ("decoder" in name) == decodes]
        same_form = [valid for valid in by_ids if valid.shape == x.shape[:2]]
        valid = next(iter([*suitable, *masks.values(), *same_form]), None)
        result.append(dataclasses.replace(split, valid=valid))
    return result


def _named_arguments(call: Call) -> dict[str, Any]:
    """The model's arguments on the samples of the call, by name; what its signature does not name is left out."""

    def rows(value: Any) -> Any:
        for_all = call.samples is None or not isinstance(value, Tensor) or not value.dim()
        return value if for_all else value[call.samples]

    arguments: dict[str, Any] = dict(zip(call.input_names, call.own_inputs, strict=False))
    positional: list[Any] = [] if call.input_names else list(call.own_inputs)
    if isinstance(call.extras, Mapping):
        arguments.update({name: rows(value) for name, value in call.extras.items()})
    elif isinstance(call.extras, tuple | list):
        positional += map(rows, call.extras)
    elif call.extras is not None:
        positional.append(rows(call.extras))
    try:
        return {**inspect.signature(call.model.forward).bind_partial(*positional).arguments, **arguments}
    except TypeError:  # the model's own call says what does not fit
        return arguments


def _positions(name: str, value: Any, x: Tensor) -> Tensor | None:
    """The positions (N, T) of an input that hold data, by one argument of the model; None where it says nothing."""
    if not isinstance(value, Tensor) or value is x:
        return None
    if any(word in name for word in LENGTH_NAMES) and value.shape == x.shape[:1] and not value.is_floating_point():
        counted = torch.arange(x.shape[1], device=x.device) < value.to(x.device)[:, None]
        return counted if int(value.max()) <= x.shape[1] else None
    if not any(word in name for word in MASK_NAMES) or value.shape != x.shape[:2]:
        return None
    if not bool(((value == 0) | (value == 1)).all()):
        return None
    valid = value.to(x.device).bool()
    return ~valid if "pad" in name and value.dtype == torch.bool else valid


def _valid_ids(call: Call) -> list[Tensor]:
    """Which token ids of each input (N, T) of whole numbers are not the padding of the model's embedding."""
    modules = (m for m in call.model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag))
    padding = next((m.padding_idx for m in modules if m.padding_idx is not None), None)
    ids = [x for x in call.own_inputs if x.dim() == 2 and not x.is_floating_point()]
    return [] if padding is None else [x != padding for x in ids]

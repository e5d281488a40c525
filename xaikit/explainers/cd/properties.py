"""Attributes of a tensor that a model reads off a decomposed value, or assigns to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from xaikit.core import torch_private

if TYPE_CHECKING:
    from xaikit.explainers.cd.decomposed import Decomposed


def get_property(name: str, value: Decomposed) -> Any:
    """An attribute of a tensor: a transpose is decomposed, anything else is read off the tensor that the model sees."""
    read = {
        "T": lambda: value.permute(*reversed(range(value.dim()))),
        "mT": lambda: value.transpose(-2, -1),
        "mH": lambda: value.transpose(-2, -1),
        "H": lambda: value.transpose(-2, -1),
        "data": value.detach,
        "real": lambda: value.like(value.parts.real).is_view_of(value),
        "imag": lambda: value.like(value.parts.imag).is_view_of(value),
        "grad": lambda: None,
        "grad_fn": lambda: None,
        # A model that differentiates itself skips what needs no gradient: it must not skip this.
        "requires_grad": lambda: value.parts.requires_grad or torch.is_grad_enabled(),
    }.get(name)
    if read is not None:
        return read()
    with torch_private.DisableTorchFunctionSubclass():
        return getattr(value, name)


def set_property(name: str, value: Decomposed, new: Any) -> None:
    """Assignment to an attribute of a tensor, of which only ``data`` means anything here."""
    if name == "data":
        value.write(new)

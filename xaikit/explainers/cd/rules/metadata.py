"""Questions about a tensor: its form is that of the tensor the model sees, its values are those of the total."""

from __future__ import annotations

from typing import Any

import torch

from xaikit.core.torch_private import DisableTorchFunction, DisableTorchFunctionSubclass
from xaikit.explainers.cd.decomposed import Decomposed, on_total, stand_ins
from xaikit.explainers.cd.registry import cd_rule
from xaikit.torch_ops import Kind, operation_name
from xaikit.torch_ops.kinds import CREATES, NO_GRADIENT, WHY_NONE


def _without_kind(reason: str) -> list[str]:
    return [name for name, why in WHY_NONE.items() if why == reason]


@cd_rule(*_without_kind(CREATES))
def new_constant(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A new tensor of the form of a given one is a constant."""
    return function(*stand_ins(args), **stand_ins(kwargs))


@cd_rule(*_without_kind(NO_GRADIENT), Kind.SCALE)
def question(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Comparisons, branches, indices and step functions go by the total; they carry no decomposition.

    So does the inverse of a size: what scales a signal is frozen, as in layer_norm.
    """
    return function(*on_total(args), **on_total(kwargs))


@cd_rule("size", "dim", "ndimension", "numel", "nelement", "is_floating_point", "is_complex", "stride", "__len__",
         "is_contiguous", "get_device", "element_size", "storage_offset", "is_nested", "is_same_size", "result_type",
         "can_cast", "is_tensor", "is_signed", "is_inference", "is_neg", "is_conj")  # fmt: skip
def form(function: Any, *args: Any, **kwargs: Any) -> Any:
    """The wrapper has the form of the tensor it stands for, but for the strides of a view."""
    name = operation_name(function)
    if name == "is_contiguous":  # torch takes the layout by name only
        args, kwargs = args[:1], {**kwargs, **dict(zip(("memory_format",), args[1:], strict=False))}
    if name in ("stride", "is_contiguous") and args[0].empty is not None:
        with DisableTorchFunction():
            return getattr(args[0].empty(), name)(*args[1:], **kwargs)
    with DisableTorchFunctionSubclass():
        return function(*args, **kwargs)


@cd_rule("__format__", "__array__", "data_ptr", "untyped_storage", "storage")
def read_off(function: Any, value: Decomposed, *args: Any) -> Any:
    """What a model prints, or reads off its memory, is that of the total."""
    return function(value.total.detach(), *args)


@cd_rule("__hash__")
def identity(function: Any, value: Decomposed) -> int:
    """Tensors hash by identity."""
    return id(value)


@cd_rule("requires_grad_", "register_hook", "retain_grad")
def no_effect(function: Any, value: Decomposed, *args: Any, **kwargs: Any) -> Decomposed:
    """Calls to autograd, such as `requires_grad_`, do not change the decomposition."""
    return value


@cd_rule("__get__")
def read_attribute(function: Any, value: Decomposed, *_: Any) -> Any:
    """An attribute of a tensor: a transpose is decomposed, anything else is read off the tensor that the model sees."""
    name = function.__self__.__name__
    read = {
        "T": lambda: value.permute(*reversed(range(value.dim()))),
        **dict.fromkeys(("mT", "mH", "H"), lambda: value.transpose(-2, -1)),
        "data": value.detach,
        "real": lambda: value.like(value.parts.real).is_view_of(value),
        "imag": lambda: value.like(value.parts.imag).is_view_of(value),
        **dict.fromkeys(("grad", "grad_fn"), lambda: None),
        # A model that differentiates itself skips what needs no gradient: it must not skip this.
        "requires_grad": lambda: value.parts.requires_grad or torch.is_grad_enabled(),
    }.get(name)
    if read is not None:
        return read()
    with DisableTorchFunctionSubclass():
        return getattr(value, name)


@cd_rule("__set__")
def assign_attribute(function: Any, value: Decomposed, new: Any) -> None:
    """Assignment to an attribute of a tensor, of which only ``data`` means anything here."""
    if function.__self__.__name__ == "data":
        value.write(new)

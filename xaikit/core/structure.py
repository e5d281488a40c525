"""Conversion between the inputs of users (a tensor, a tuple or a dict) and those of methods (a tuple of tensors)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.masked import MaskedTensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.value_ranges import ranges_of

Tensors = tuple[Tensor, ...]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    # The type of an attribution of a tensor or a mapping. At a layer it is a tensor, with several layers a
    # tuple. A type checker does not see which layers are set. So it takes the first type, unless the code around the
    # call expects another one.
    OfTensor = TypeVar("OfTensor", Tensor, tuple[Tensor, ...], default=Tensor)
    OfMapping = TypeVar("OfMapping", dict[str, Tensor], tuple[Tensor, ...], default=dict[str, Tensor])


def flatten(inputs: Any, what: str = "inputs") -> tuple[Tensors, Callable[[Tensors], Any]]:
    """The tensors of a structure, and the function that puts others in their place.

    Raises:
        InvalidTypeError: for anything but a tensor, a tuple or list of tensors, or a dict of tensors.
    """
    if isinstance(inputs, Tensor):
        return (inputs,), lambda out: out[0]
    if isinstance(inputs, (tuple, list)):
        leaves, build = tuple(inputs), type(inputs) if type(inputs) in (tuple, list) else tuple
        rebuild: Callable[[Tensors], Any] = build
    elif isinstance(inputs, Mapping):
        keys, leaves = tuple(inputs), tuple(inputs.values())
        rebuild = lambda out: dict(zip(keys, out, strict=True))  # noqa: E731
    else:
        hint = "; make it one with torch.as_tensor" if type(inputs).__module__ == "numpy" else ""
        raise InvalidTypeError(
            f"{what} must be a tensor, a tuple or a dict of tensors, got {type(inputs).__name__}{hint}"
        )
    for leaf in leaves:
        if not isinstance(leaf, Tensor):
            raise InvalidTypeError(
                f"{what} must hold tensors only, got {type(leaf).__name__} inside a {type(inputs).__name__}"
            )
    if not leaves:
        raise InvalidInputError(f"{what} holds no tensor")
    return leaves, rebuild


def joined_parts(parts: Sequence[Sequence[Tensors]]) -> tuple[Tensors, ...]:
    """For each target the tensors of all samples, from those that each part of the samples has for each target."""
    by_target = zip(*parts, strict=True)
    return tuple(tuple(torch.cat(pieces) for pieces in zip(*of_parts, strict=True)) for of_parts in by_target)


def token_ids(attribution: Any, inputs: Tensors) -> Tensor | None:
    """The input of token ids (N, T) whose embeddings (N, T, D) the attribution is about; None if there is none."""
    if not isinstance(attribution, Tensor) or attribution.ndim != 3:
        return None
    ids = (t for t in inputs if t.shape == attribution.shape[:2] and not t.is_floating_point())
    return next(ids, None)


def check_batch(tensors: Tensors, what: str = "inputs") -> int:
    """The common batch size N of tensors shaped (N, ...).

    Raises:
        InvalidInputError: for scalars, an empty batch, unequal batch sizes, NaN or infinite values.
        InvalidTypeError: for nested, sparse and masked tensors, and those without numbers.
    """
    if any(t.is_nested for t in tensors):
        raise InvalidTypeError(f"{what} must be dense tensors, got a nested tensor; pass {what}.to_padded_tensor(0.0)")
    if any(t.is_meta for t in tensors):
        raise InvalidTypeError(f"{what} must hold numbers, got a tensor on the device 'meta', which has none")
    sparse = next((t.layout for t in tensors if t.layout != torch.strided), None)
    if sparse is not None:
        raise InvalidTypeError(f"{what} must be dense tensors, got {sparse}; pass {what}.to_dense()")
    if any(isinstance(t, MaskedTensor) for t in tensors):
        raise InvalidTypeError(f"{what} must be plain tensors, got a masked one; pass {what}.to_tensor(0.0)")
    if any(t.ndim == 0 for t in tensors):
        raise InvalidInputError(f"{what} must have a batch dimension first, got a scalar")
    sizes = [len(t) for t in tensors]
    if len(set(sizes)) > 1:
        raise InvalidInputError(f"{what} must agree on the batch size, got {sizes}")
    if sizes[0] == 0:
        raise InvalidInputError(
            f"{what} are an empty batch of shape {tuple(tensors[0].shape)}; pass at least one sample"
        )
    numbers = [i for i, tensor in enumerate(tensors) if tensor.is_floating_point()]
    for i, ends in zip(numbers, ranges_of([tensors[i] for i in numbers]), strict=True):
        if not ends.finite:
            bad = (
                (~torch.isfinite(tensors[i].detach())).reshape(len(tensors[i]), -1).any(1).nonzero().flatten().tolist()
            )
            where = f"{what}[{i}]" if len(tensors) > 1 else what
            raise InvalidInputError(f"{where} must be finite, got NaN or inf in sample {', '.join(map(str, bad[:5]))}")
    return sizes[0]


def by_row(tensor: Tensor) -> Tensor:
    """A tensor (N, ...) as (N, features); one number for each row, (N,), as (N, 1).

    Args:
        tensor: with the rows first.
    """
    return tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]


def row_ends(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value of each row, both (N, 1, ...); of rows of one number, (N,), that number.

    Args:
        tensor: (N, ...).
    """
    axes = tuple(range(1, tensor.ndim))  # no axes at all would mean every axis to torch
    return (tensor.amin(axes, keepdim=True), tensor.amax(axes, keepdim=True)) if axes else (tensor, tensor)


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """A nested output with every tensor changed: of tuples, lists, dicts, and objects that hold tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {k: map_tensors(v, change) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, change) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(v, change) for v in value)
    if hasattr(value, "__dict__"):
        return SimpleNamespace(**{k: map_tensors(v, change) for k, v in vars(value).items()})
    return value


def split_rows(output: Any, n: int) -> list[Any]:
    """An output of stacked versions of a batch of N, cut into one output for each version."""
    if isinstance(output, Tensor):
        return list(output.split(n))
    rows: list[int] = []
    map_tensors(output, lambda t: rows.append(len(t)) if t.ndim else None)
    total = max(rows, default=n)
    take = lambda start: lambda t: t[start : start + n] if t.ndim and len(t) == total else t  # noqa: E731
    return [map_tensors(output, take(start)) for start in range(0, total, n)]


def join_rows(outputs: Sequence[Any], select: Callable[[Tensor], Tensor]) -> Any:
    """Outputs of the same structure joined along their rows, then rows selected."""
    tensors: list[list[Tensor]] = []
    for output in outputs:
        tensors.append([])
        map_tensors(output, tensors[-1].append)
    joined = iter([select(torch.cat(parts)) if parts[0].ndim else parts[0] for parts in zip(*tensors, strict=True)])
    return map_tensors(outputs[0], lambda _: next(joined))


def as_leaf(x: Tensor, *, keep_graph: bool) -> Tensor:
    """A tensor by which a score can be differentiated; whole numbers, such as the ids of tokens, as they are.

    Args:
        x: an input.
        keep_graph: whether an input that has a graph keeps it.
    """
    is_whole = not x.is_floating_point() and not x.is_complex()
    return x if is_whole or (keep_graph and x.requires_grad) else x.detach().requires_grad_()

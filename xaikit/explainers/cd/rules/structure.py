"""Ops that move entries about: the same move for each part, two dimensions further back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.core.errors import UnsupportedOperationError
from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed, on_total, with_parts
from xaikit.explainers.cd.layout import channels_behind
from xaikit.explainers.cd.registry import cd_rule
from xaikit.explainers.cd.rules import by_kind
from xaikit.explainers.cd.shares import ShareLostError
from xaikit.torch_ops import by_name, calling_module, operation_name


def behind(dim: Any) -> Any:
    """A dimension of x, or several, as dimensions of its parts."""
    if isinstance(dim, tuple | list):
        return [behind(d) for d in dim]
    return dim + 2 if dim >= 0 else dim


def moved(x: Decomposed, move: Callable[[Tensor], Any]) -> Any:
    """Apply a move of entries to the parts, (2, masks, *shape), and to the share; the result may be a view."""
    result = move(x.parts)
    if isinstance(result, Tensor):
        return _moved(x, result, move)

    return type(result)(
        _moved(x, piece, functools.partial(lambda i, value: move(value)[i], i)) for i, piece in enumerate(result)
    )


def _moved(x: Decomposed, parts: Tensor, move: Callable[[Tensor], Tensor]) -> Decomposed:
    out = x.like(parts, shares.restructured(x.share, x.shape, move)).is_view_of(x)
    out.empty = functools.partial(_layout_after, x.empty, x.shape, move)
    return out


def _layout_after(before: Callable[[], Tensor] | None, shape: torch.Size, move: Callable[[Tensor], Tensor]) -> Tensor:
    """The layout that a move makes of one, without the value itself, whose memory may be written over by then."""
    layout = torch.empty(shape, device="meta") if before is None else before()
    return move(layout[None, None])[0, 0]


def sizes_of(shape: Sequence[Any]) -> list[int]:
    """Sizes given one by one or as one sequence."""
    nested = len(shape) == 1 and not isinstance(shape[0], int | Tensor)
    return [int(size) for size in (shape[0] if nested else shape)]


@cd_rule("reshape", "view")
def reshape(function: Any, input: Decomposed, *shape: Any, **kwargs: Any) -> Any:
    """Another shape with the same entries."""
    shape = shape or tuple(kwargs.values())
    if isinstance(shape[0], torch.dtype):
        raise UnsupportedOperationError(
            f"a decomposed value cannot be reinterpreted as {shape[0]} in {calling_module()}"
        )
    sizes = sizes_of(shape)
    if -1 in sizes:
        known_size = prod(size for size in sizes if size != -1)
        sizes[sizes.index(-1)] = input.numel() // known_size if known_size else 0
    if len(input.family()) == 1 and channels_behind(input.parts):
        # The model's own tensor is in the usual order and shares its memory with its view, so an in-place op on either
        # reaches both; so must these.
        input.parts = input.parts.contiguous()
    parts = input.parts.reshape(*input.parts.shape[:2], *sizes)
    return input.like(parts, shares.reshaped(input.share, input.shape, sizes)).is_view_of(input)


@cd_rule("view_as", "reshape_as", "expand_as")
def formed_as(function: Any, input: Any, other: Any) -> Any:
    """The shape of another tensor; a constant that takes a decomposed value's shape stays a constant."""
    change = expand if operation_name(function) == "expand_as" else reshape
    if isinstance(input, Decomposed):
        return change(function, input, other.shape)
    return input.expand(other.shape) if change is expand else input.reshape(other.shape)


@cd_rule("flatten", "ravel")
def flatten(function: Any, input: Decomposed, start_dim: int = 0, end_dim: int = -1) -> Decomposed:
    """Several dimensions as one."""
    start, end = start_dim % max(input.dim(), 1), end_dim % max(input.dim(), 1)
    sizes = input.shape
    return reshape(function, input, *sizes[:start], prod(sizes[start : end + 1]), *sizes[end + 1 :])  # type: ignore[no-any-return]


@cd_rule("unflatten")
def unflatten(function: Any, input: Decomposed, dim: int, sizes: Sequence[int]) -> Decomposed:
    """One dimension as several."""
    dim = dim % input.dim()
    sizes = list(sizes)
    if -1 in sizes:
        sizes[sizes.index(-1)] = input.shape[dim] // prod(size for size in sizes if size != -1)
    return reshape(function, input, *input.shape[:dim], *sizes, *input.shape[dim + 1 :])


@cd_rule("permute")
def permute(function: Any, input: Decomposed, *dims: Any, **kwargs: Any) -> Decomposed:
    """Dimensions in another order."""
    order = [d % input.dim() + 2 for d in sizes_of(dims or tuple(kwargs.values()))]
    return moved(input, lambda value: value.permute(0, 1, *order))


@cd_rule("t", "adjoint")
def matrix_transpose(function: Any, input: Decomposed) -> Decomposed:
    """Rows and columns swapped."""
    return input if input.dim() < 2 else moved(input, lambda value: value.transpose(-2, -1))


@cd_rule("squeeze")
def squeeze(function: Any, input: Decomposed, dim: Any = None) -> Any:
    """Dimensions of size 1 dropped."""
    dims = range(input.dim()) if dim is None else (dim,) if isinstance(dim, int) else dim
    dims = {d % max(input.dim(), 1) for d in dims}
    return reshape(function, input, [size for d, size in enumerate(input.shape) if d not in dims or size != 1])


@cd_rule("expand", "broadcast_to")
def expand(function: Any, input: Decomposed, *sizes: Any, **kwargs: Any) -> Decomposed:
    """Broadcast to a larger shape."""
    target = sizes_of(sizes or (kwargs.get("size"),))
    aligned = input.aligned(len(target))
    return aligned.like(aligned.parts.expand(-1, -1, *target)).is_view_of(input)


@cd_rule("repeat_interleave")
def repeat_interleave(function: Any, input: Any, repeats: Any, dim: int | None = None, **kwargs: Any) -> Any:
    """Each entry several times."""
    if dim is None:
        return repeat_interleave(function, input.reshape(-1), repeats, 0, **kwargs)
    return along(input, dim, lambda value, axis: value.repeat_interleave(repeats, axis, **kwargs))


def along(x: Decomposed, dim: int, change: Callable[[Tensor, int], Tensor]) -> Decomposed:
    """A change `change(tensor, dimension)` of what stands along one dimension."""
    dim = dim % x.dim()
    varies = not shares.is_uniform(x.share) and x.share.shape[1 + dim] > 1
    return x.like(change(x.parts, dim + 2), change(x.share, dim + 1) if varies else x.share)


@cd_rule("chunk", "split", "split_with_sizes", "tensor_split")
def split(function: Any, input: Decomposed, size: Any = None, dim: int = 0, **kwargs: Any) -> Any:
    """Pieces along one dimension."""
    size = size if size is not None else next(iter(kwargs.values()))
    name = operation_name(function).removesuffix("_with_sizes")
    return moved(input, lambda value: getattr(value, name)(size, behind(dim)))


@cd_rule("hsplit", "vsplit", "dsplit")
def split_along(function: Any, input: Decomposed, size: Any) -> Any:
    """Pieces along the second, first or third dimension."""
    dim = {"h": 0 if input.dim() == 1 else 1, "v": 0, "d": 2}[operation_name(function)[0]]
    return split(torch.tensor_split, input, size, dim)


FIRST_DIMS = {"unsqueeze": 1, "unbind": 1, "narrow": 1, "select": 1, "transpose": 2, "movedim": 2}
"""Views, with how many of their arguments name a dimension; those come first."""


@cd_rule(*FIRST_DIMS)
def view(function: Any, input: Decomposed, *args: Any) -> Any:
    """A dimension put in, slices or a stretch of one, two of them swapped, or some moved elsewhere."""
    name = operation_name(function)
    count = FIRST_DIMS[name]
    arguments = (*behind(args[:count] or (0,)), *map(int, args[count:]))
    return moved(input, lambda value: getattr(value, name)(*arguments))


@cd_rule("__iter__")
def iterate(function: Any, input: Decomposed) -> Any:
    """Slices along the first dimension."""
    return iter(input.unbind())


@cd_rule("slice")
def stretch(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Any:
    """A stretch of one dimension, as exported programs take it."""
    a = by_name(function, (input, *args), kwargs)
    return moved(input, lambda value: function(value, behind(a["dim"]), a["start"], a["end"], a["step"]))


@cd_rule("diagonal")
def diagonal(function: Any, input: Decomposed, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Decomposed:
    """The diagonal of two dimensions."""
    return moved(input, lambda value: value.diagonal(offset, behind(dim1), behind(dim2)))


@cd_rule("as_strided")
def as_strided(function: Any, input: Decomposed, size: Any, stride: Any, storage_offset: int | None = None) -> Any:
    """A view of the memory of a value, which lies in order."""
    if not shares.is_uniform(input.share):
        raise ShareLostError(input.shape, size)
    copied = not input.parts.is_contiguous()
    parts = input.parts.contiguous()
    sizes, strides = (*parts.shape[:2], *size), (*parts.stride()[:2], *stride)
    view = input.like(parts.as_strided(sizes, strides, parts.storage_offset() + (storage_offset or 0)))
    view.is_copied_view = copied
    return view.is_view_of(input)


@cd_rule("unfold")
def unfold(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Any:
    """Sliding windows along one dimension (the method), or patches of an image as columns (the function)."""
    if function is not torch.Tensor.unfold:
        return by_kind.structure(function, input, *args, **kwargs)
    dimension, size, step = args
    return moved(input, lambda value: value.unfold(behind(dimension), size, step))


@cd_rule("flip", "fliplr", "flipud", "roll")
def shifted(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Any:
    """Entries in reverse order, or shifted around."""
    name = operation_name(function)
    if name == "roll":
        steps = args[0] if args else kwargs["shifts"]
        dims = args[1] if len(args) > 1 else kwargs.get("dims", ())
        if dims in ((), [], None):
            return input.reshape(-1).roll(steps, 0).reshape(input.shape)
        return _same_shape(input, lambda value: value.roll(steps, behind(dims)))
    dims = {"fliplr": [1], "flipud": [0]}.get(name) or (args[0] if len(args) == 1 else args or kwargs["dims"])
    return _same_shape(input, lambda value: value.flip(behind(dims)))


def _same_shape(x: Decomposed, move: Callable[[Tensor], Tensor]) -> Decomposed:
    """A move within the shape; it acts on the share as it stands, whose constant dimensions stay constant."""
    share = x.share if shares.is_uniform(x.share) else move(x.share.unsqueeze(0))[0]
    return x.like(move(x.parts), share)


def is_basic(items: tuple[Any, ...]) -> bool:
    """Whether indices make a view: whole numbers, slices, None and an ellipsis."""
    return all(
        item is None or item is Ellipsis or isinstance(item, int | slice) and not isinstance(item, bool)
        for item in items
    )


@cd_rule("__getitem__")
def getitem(function: Any, input: Decomposed, index: Any) -> Decomposed:
    """Basic indices make a view; indices by tensors or lists are applied part by part."""
    items = on_total(index) if isinstance(index, tuple) else (on_total(index),)
    if is_basic(items):
        return moved(input, lambda value: value[(slice(None), slice(None), *items)])
    share = input.share
    if not shares.is_uniform(share):
        share = torch.stack([row[items] for row in share.expand(share.shape[0], *input.shape)])
    return input.map_parts(lambda part: part[items], share)


@cd_rule("cat", "stack", "hstack", "vstack", "dstack")
def join(function: Any, tensors: Any, dim: int = 0, **kwargs: Any) -> Any:
    """Tensors side by side; a constant among them is split by the undecided share."""
    dim = kwargs.get("axis", dim)
    name = operation_name(function)
    if name in ("hstack", "vstack", "dstack"):
        at_least = {"hstack": torch.atleast_1d, "vstack": torch.atleast_2d, "dstack": torch.atleast_3d}[name]
        tensors = [value.reshape(at_least(torch.empty(value.shape, device="meta")).shape) for value in tensors]
        dim = {"hstack": min(tensors[0].dim(), 2) - 1, "vstack": 0, "dstack": 2}[name]
    pairs = [value for value in tensors if isinstance(value, Decomposed)]
    joint = torch.stack if name == "stack" else torch.cat
    if joint is torch.cat:  # torch lets an empty vector stand among tensors of any rank
        tensors = [value for value in tensors if value.shape != (0,)]
    parts = joint([with_parts(value, pairs[0]).parts for value in tensors], behind(dim))
    return pairs[0].like(parts, _joint_share(joint, tensors, pairs, dim))


def _joint_share(joint: Any, tensors: Any, pairs: list[Decomposed], dim: int) -> Tensor:
    """The share of joined tensors: as it is where none varies along the joined dimension, else joined as they are."""
    share = pairs[0].share
    if all(pair.share is share for pair in pairs[1:]) and shares.is_uniform(share):
        return share
    if all(shares.is_uniform(pair.share) for pair in pairs):
        return torch.stack([pair.share for pair in pairs]).mean(0)
    axis = dim % (pairs[0].dim() + (joint is torch.stack)) + 1
    if joint is torch.stack:
        return pairs[0].aligned_share(pairs[0].dim()).unsqueeze(axis)
    varying = [pair.aligned_share(pair.dim()) for pair in pairs]
    if all(value.shape == varying[0].shape and value.shape[axis] == 1 for value in varying):
        return varying[0]
    if any(not isinstance(value, Decomposed) for value in tensors):
        raise ShareLostError(pairs[0].shape, pairs[0].shape)
    return torch.cat(
        [value.expand(value.shape[0], *pair.shape) for value, pair in zip(varying, pairs, strict=True)], axis
    )


@cd_rule("pad")
def pad(function: Any, input: Decomposed, pad: Sequence[int], mode: str = "constant", value: Any = None) -> Any:
    """Zeros around each part in one call; any other padding is a move of entries like others."""
    if mode == "constant" and not value:
        return input.like(functional.pad(input.parts, pad))
    return by_kind.structure(function, input, pad, mode, value)

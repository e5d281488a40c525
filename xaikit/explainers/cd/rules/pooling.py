"""Pooling and selection: averages are linear; a maximum picks the entry of each part where the total has its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.constants import with_weights
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.layout import channels_behind
from xaikit.explainers.cd.registry import cd_rule
from xaikit.explainers.cd.rules.affine import folded
from xaikit.explainers.cd.rules.elementwise import larger
from xaikit.explainers.cd.rules.structure import along
from xaikit.torch_ops import operation_name, plain_name

AVERAGES = {f"{kind}avg_pool{n}d": n for kind in ("", "adaptive_") for n in (1, 2, 3)}
MAXIMA = {f"{kind}max_pool{n}d": n for kind in ("", "adaptive_") for n in (1, 2, 3)}


@cd_rule(*AVERAGES)
def average(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Decomposed:
    """Average pooling of each part."""
    return folded(input, AVERAGES[operation_name(function)] + 1, lambda rows: function(rows, *args, **kwargs))


@cd_rule("interpolate", "upsample", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "fold")
def resampling(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Decomposed:
    """Linear maps over (batch, channels, ...)."""
    return folded(input, input.dim() - 1, lambda rows: function(rows, *args, **kwargs))


@cd_rule(*MAXIMA)
def maximum(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Any:
    """Max pooling: both parts are gathered at the maxima of the total."""
    name = operation_name(function)
    place, dims = 1 if "adaptive" in name else 5, MAXIMA[name]
    with_indices = kwargs.pop(
        "return_indices", args[place] if len(args) > place else "_with_indices" in plain_name(function)
    )
    later = input.deferred if input.deferred is not None and input.deferred.per_channel else None
    total = input.total if later is None else later.total()
    _, indices = getattr(functional, f"{name}_with_indices")(total, *args[:place], **kwargs)
    if later is None:
        pooled = input.like(select(input.parts, indices, dims))
    else:  # the steps are the same at all places of a channel
        pooled = later.picked(lambda parts: select(parts, indices, dims))
    return (pooled, indices) if with_indices else pooled


def select(parts: Tensor, indices: Tensor, dims: int) -> Tensor:
    """The entries at indices into the last dimensions, the same for each part and mask."""
    lead = parts.shape[:2]
    if not channels_behind(parts):
        flat, source = indices.flatten(-dims), parts.flatten(-dims)
        return source.gather(-1, flat.expand(*lead, *flat.shape)).view(*lead, *indices.shape)
    channels = parts.shape[3]
    where = indices.movedim(1, -1) * channels + torch.arange(channels, device=parts.device)
    flat, source = where.flatten(1), parts.movedim(3, -1).flatten(3)
    return source.gather(-1, flat.expand(*lead, *flat.shape)).view(*lead, *where.shape).movedim(-1, 3)


@cd_rule("max", "min", "median", "nanmedian", "kthvalue", "mode", "topk", "sort", "cummax", "cummin")
def pick(function: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """Entries along a dimension, or one of all, chosen by the total; of two tensors the larger or the smaller."""
    name = operation_name(function)
    other = args[0] if args else kwargs.get("other")
    if isinstance(other, Tensor):
        return larger(torch.maximum if name == "max" else torch.minimum, input, other)
    if name in ("max", "min", "median", "nanmedian") and not args and "dim" not in kwargs:
        return pick(getattr(torch, name), input.reshape(-1), 0).values
    chosen = function(input.total, *args, **kwargs)
    position = 1 if name in ("topk", "kthvalue") else 0
    dim = kwargs.get("dim", args[position] if len(args) > position else -1)
    _, places = chosen
    dropped = places.dim() < input.dim()
    value = input.gather(dim, places.unsqueeze(dim)).squeeze(dim) if dropped else input.gather(dim, places)
    return type(chosen)((value, places))


@cd_rule("amax", "amin")
def amax(function: Any, input: Decomposed, dim: Any = (), keepdim: bool = False) -> Decomposed:
    """The mean of the entries at which the total has its maximum."""
    best = input.total == function(input.total, dim, keepdim=True)
    dims = tuple(range(input.dim())) if dim in ((), []) else dim
    weights = best / best.sum(dims, keepdim=True)
    return with_weights(input, weights.to(input.dtype)).sum(dims, keepdim=keepdim)


@cd_rule("aminmax")
def both_extrema(_function: Any, input: Decomposed, *, dim: Any = (), keepdim: bool = False) -> Any:
    """The smallest and the largest entry."""
    low, high = (amax(function, input, dim, keepdim) for function in (torch.amin, torch.amax))
    return torch.return_types.aminmax((low, high))


@cd_rule("index_select")
def index_select(function: Any, input: Decomposed, dim: int, index: Tensor) -> Decomposed:
    """Slices along one dimension."""
    return along(input, dim, lambda value, axis: value.index_select(axis, index))


@cd_rule("gather", "take_along_dim")
def gather(function: Any, input: Any, dim: Any, index: Any = None, **kwargs: Any) -> Decomposed:
    """Entries at given indices, along one dimension."""
    if operation_name(function) == "take_along_dim":
        dim, index = kwargs.get("dim") if index is None else index, dim
        if dim is None:
            input, dim, index = input.reshape(-1), 0, index.flatten()
        dim = dim % input.dim()
        others = torch.broadcast_shapes(*((*value.shape[:dim], 1, *value.shape[dim + 1 :]) for value in (input, index)))
        input, index = (value.expand(*others[:dim], value.shape[dim], *others[dim + 1 :]) for value in (input, index))
    dim = dim % input.dim()
    share = input.share
    if not shares.is_uniform(share) and share.shape[1 + dim] > 1:
        share = share.expand(share.shape[0], *input.shape).gather(1 + dim, index.expand(share.shape[0], *index.shape))
    parts = input.parts
    for d in range(input.dim()):  # gather reads only as far as the index reaches
        parts = parts if d == dim else parts.narrow(d + 2, 0, index.shape[d])
    return input.like(parts.gather(dim + 2, index.expand(*parts.shape[:2], *index.shape)), share)

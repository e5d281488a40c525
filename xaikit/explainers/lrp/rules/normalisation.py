"""Normalisations by the input's own statistics: the mean is linear, the scale is frozen (AttnLRP, section 3.3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.explainers.lrp.registry import rule
from xaikit.torch_ops import by_name, operation_name, with_statistics

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


def normalised(trace: Trace, x: Tensor, dims: list[int], eps: float, *, centred: bool = True) -> Tensor:
    """(x - mean) / sqrt(var + eps), of which relevance sees x - mean times a constant."""
    centre = x - x.mean(dims, keepdim=True) if centred else x
    scale = (centre.square().mean(dims, keepdim=True) + eps).rsqrt()
    return centre * trace.flow.stopped(scale)


def affine_map(y: Tensor, weight: Tensor | None, bias: Tensor | None, *, channels: bool = False) -> Tensor:
    """Y * weight + bias, of which either may be missing; along dimension 1 for `channels`, else along the last ones."""
    if channels:
        shape = (1, -1, *(1,) * (y.ndim - 2))
        weight, bias = (None if p is None else p.view(shape) for p in (weight, bias))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@rule("layer_norm", "rms_norm", "native_layer_norm")
def layer_norm(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
    """LayerNorm, and RMSNorm, which subtracts no mean."""
    a = by_name(function, args, kwargs)
    dims = list(range(-len(a["normalized_shape"]), 0))
    eps = torch.finfo(a["input"].dtype).eps if a["eps"] is None else a["eps"]
    y = normalised(trace, a["input"], dims, eps, centred=operation_name(function) != "rms_norm")
    return with_statistics(function, trace.mark(affine_map(y, a["weight"], a.get("bias"))))


@rule("group_norm", "native_group_norm")
def group_norm(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
    """GroupNorm."""
    a = by_name(function, args, kwargs)
    return with_statistics(function, grouped(trace, a, a["num_groups" if "num_groups" in a else "group"]))


def grouped(trace: Trace, a: dict[str, Any], groups: int) -> Tensor:
    """The normalisation of each group of channels, with its arguments by name."""
    x: Tensor = a["input"]
    y = normalised(trace, x.reshape(len(x), groups, -1), [-1], a["eps"]).reshape(x.shape)
    return trace.mark(affine_map(y, a["weight"], a["bias"], channels=True))

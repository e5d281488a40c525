"""Normalisations by the input's own statistics: the mean is linear, the scale is frozen (AttnLRP, section 3.3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.explainers.lrp.flow import Stop
from xaikit.explainers.lrp.registry import HANDLERS, rule
from xaikit.torch_ops import by_name

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


def normalised(trace: Trace, x: Tensor, dims: list[int], eps: float, *, centred: bool = True) -> Tensor:
    """(x - mean) / sqrt(var + eps), of which relevance sees x - mean times a constant."""
    centre = x - x.mean(dims, keepdim=True) if centred else x
    scale = (centre.square().mean(dims, keepdim=True) + eps).rsqrt()
    return centre * Stop.apply(scale, trace.flow)


def affine_map(y: Tensor, weight: Tensor | None, bias: Tensor | None, *, channels: bool = False) -> Tensor:
    """Y * weight + bias, of which either may be missing; along dimension 1 for `channels`, else along the last ones."""
    if channels:
        shape = (1, -1, *(1,) * (y.ndim - 2))
        weight, bias = (None if p is None else p.view(shape) for p in (weight, bias))
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@rule("layer_norm", "rms_norm")
def layer_norm(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Tensor:
    """LayerNorm, and RMSNorm, which subtracts no mean."""
    a = by_name(function, args, kwargs)
    dims = list(range(-len(a["normalized_shape"]), 0))
    eps = torch.finfo(a["input"].dtype).eps if a["eps"] is None else a["eps"]
    y = normalised(trace, a["input"], dims, eps, centred="rms" not in function.__name__)
    return trace.mark(affine_map(y, a["weight"], a.get("bias")))


@rule("native_layer_norm")
def native_layer_norm(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """LayerNorm as exported programs call it, which also returns the statistics."""
    y = layer_norm(trace, function, *args, **kwargs)
    return y, y.new_empty(0), y.new_empty(0)


@rule("group_norm")
def group_norm(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Tensor:
    """GroupNorm."""
    a = by_name(function, args, kwargs)
    return _grouped(trace, a, a["num_groups"])


@rule("native_group_norm")
def native_group_norm(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """GroupNorm as exported programs call it, which also returns the statistics."""
    a = by_name(function, args, kwargs)
    y = _grouped(trace, a, a["group"])
    return y, y.new_empty(0), y.new_empty(0)


@rule("instance_norm")
def instance_norm(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Tensor:
    """InstanceNorm; with running statistics it is what BatchNorm is."""
    a = by_name(function, args, kwargs)
    if a["use_input_stats"]:
        return _grouped(trace, a, a["input"].shape[1])
    y: Tensor = HANDLERS["batch_norm"](trace, torch.nn.functional.batch_norm, *(a[n] for n in STATISTICS), eps=a["eps"])
    return y


STATISTICS = ("input", "running_mean", "running_var", "weight", "bias")


def _grouped(trace: Trace, a: dict[str, Any], groups: int) -> Tensor:
    x: Tensor = a["input"]
    y = normalised(trace, x.reshape(len(x), groups, -1), [-1], a["eps"]).reshape(x.shape)
    return trace.mark(affine_map(y, a["weight"], a["bias"], channels=True))

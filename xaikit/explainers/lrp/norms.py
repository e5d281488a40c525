"""Normalisations by the input's own statistics: the mean is linear, the scale is frozen (AttnLRP, section 3.3.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xaikit.explainers.lrp.flow import Stop
from xaikit.explainers.lrp.operations import HANDLERS, arguments, rule

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


def normalised(trace: Trace, x: Tensor, dims: list[int], eps: float, *, centred: bool = True) -> Tensor:
    """(x - mean) / sqrt(var + eps), of which relevance sees x - mean times a constant."""
    centre = x - x.mean(dims, keepdim=True) if centred else x
    scale = (centre.square().mean(dims, keepdim=True) + eps).rsqrt()
    return centre * Stop.apply(scale, trace.flow)


def _affine(y: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@rule("layer_norm")
def layer_norm(trace: Trace, _func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """LayerNorm."""
    a = arguments("input normalized_shape weight bias eps", args, kwargs, weight=None, bias=None, eps=1e-5)
    dims = list(range(-len(a["normalized_shape"]), 0))
    return trace.mark(_affine(normalised(trace, a["input"], dims, a["eps"]), a["weight"], a["bias"]))


@rule("rms_norm")
def rms_norm(trace: Trace, _func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """RMSNorm."""
    a = arguments("input normalized_shape weight eps", args, kwargs, weight=None, eps=None)
    dims = list(range(-len(a["normalized_shape"]), 0))
    eps = torch.finfo(a["input"].dtype).eps if a["eps"] is None else a["eps"]
    return trace.mark(_affine(normalised(trace, a["input"], dims, eps, centred=False), a["weight"], None))


@rule("group_norm")
def group_norm(trace: Trace, _func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """GroupNorm."""
    a = arguments("input num_groups weight bias eps", args, kwargs, weight=None, bias=None, eps=1e-5)
    return _grouped(trace, a, a["num_groups"])


@rule("instance_norm")
def instance_norm(trace: Trace, _func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """InstanceNorm; with running statistics it is what BatchNorm is."""
    names = "input running_mean running_var weight bias use_input_stats momentum eps"
    a = arguments(
        names, args, kwargs, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, eps=1e-5
    )
    if not a["use_input_stats"]:
        statistics = {n: a[n] for n in ("running_mean", "running_var", "weight", "bias", "eps")}
        return HANDLERS["batch_norm"](trace, F.batch_norm, a["input"], **statistics)
    return _grouped(trace, a, a["input"].shape[1])


def _grouped(trace: Trace, a: dict[str, Any], groups: int) -> Tensor:
    x: Tensor = a["input"]
    y = normalised(trace, x.reshape(len(x), groups, -1), [-1], a["eps"]).reshape(x.shape)
    channels = (1, -1, *(1,) * (x.ndim - 2))
    weight, bias = (None if p is None else p.view(channels) for p in (a["weight"], a["bias"]))
    return trace.mark(_affine(y, weight, bias))

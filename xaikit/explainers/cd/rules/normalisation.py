"""Normalisation: linear with the scale frozen at the total; the shift is a constant to be shared."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.explainers.cd.constants import add_constant, constant_step
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.registry import cd_rule
from xaikit.torch_ops import by_name, operation_name, with_statistics
from xaikit.torch_ops.kinds import NATIVE_BATCH_NORMS


def scaled(x: Decomposed, scale: Tensor, bias: Tensor | None) -> Decomposed:
    """Compute scale * x + bias for a fresh x."""
    return x.like(x.parts * scale) if bias is None else add_constant(x, bias, scale, may_overwrite=True)


def per_channel(values: Tensor | None, ndim: int) -> Any:
    """One value per channel, to be broadcast against (batch, channels, ...)."""
    return None if values is None else values.reshape(-1, *[1] * (ndim - 2))


@cd_rule("layer_norm", "rms_norm", "native_layer_norm")
def layer_norm(function: Any, *args: Any, **kwargs: Any) -> Any:
    """(v - mean v) * w / std t for each part v, then the bias; RMSNorm takes no mean off."""
    a = by_name(function, args, kwargs)
    x, dims = a["input"], tuple(range(-len(a["normalized_shape"]), 0))
    eps = torch.finfo(x.dtype).eps if a["eps"] is None else a["eps"]
    if operation_name(function) != "rms_norm":
        x = x.like(x.parts - x.parts.mean(dims, keepdim=True))
    scale = torch.rsqrt(x.total.square().mean(dims, keepdim=True) + eps)
    result = scaled(x, scale if a["weight"] is None else scale * a["weight"], a.get("bias"))
    return with_statistics(function, result)


@cd_rule("group_norm", "native_group_norm")
def group_norm(function: Any, *args: Any, **kwargs: Any) -> Any:
    """As layer_norm, over each group of channels."""
    a = by_name(function, args, kwargs)
    result = over_groups(
        a["input"], a["num_groups" if "num_groups" in a else "group"], a["weight"], a["bias"], a["eps"]
    )
    return with_statistics(function, result)


def over_groups(input: Decomposed, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Decomposed:
    """(v - mean v) * w / std t for each part v and each group of channels, then the bias."""
    grouped = input.total.unflatten(1, (groups, -1)).flatten(2)
    std_inverse = torch.rsqrt(grouped.var(-1, correction=0) + eps).repeat_interleave(input.shape[1] // groups, 1)
    parts = input.parts.unflatten(3, (groups, -1))
    mean = parts.flatten(4).mean(-1).reshape(*parts.shape[:4], *[1] * (parts.dim() - 4))
    scale = std_inverse.reshape(*std_inverse.shape, *[1] * (input.dim() - 2))
    if weight is not None:
        scale = scale * per_channel(weight, input.dim())
    return scaled(input.like((parts - mean).flatten(3, 4)), scale, per_channel(bias, input.dim()))


@cd_rule("instance_norm")
def instance_norm(function: Any, *args: Any, **kwargs: Any) -> Decomposed:
    """One group per channel; with running statistics it is a batch norm in evaluation mode."""
    a = by_name(function, args, kwargs)
    if not a["use_input_stats"]:
        return of_statistics(a)
    return over_groups(a["input"], a["input"].shape[1], a["weight"], a["bias"], a["eps"])


@cd_rule("batch_norm", *NATIVE_BATCH_NORMS)
def batch_norm(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Affine: scale g = w / std and constant b - mean g. Without running statistics those of the total."""
    return with_statistics(function, of_statistics(by_name(function, args, kwargs)))


def of_statistics(a: dict[str, Any]) -> Decomposed:
    """BatchNorm with its arguments by name."""
    input, mean, variance = a["input"], a.get("running_mean"), a.get("running_var")
    if a.get("training") or mean is None or variance is None:
        dims = [dim for dim in range(input.dim()) if dim != 1]
        variance, mean = torch.var_mean(input.total, dims, correction=0)
    scale = torch.rsqrt(variance + a["eps"])
    scale = scale if a["weight"] is None else scale * a["weight"]
    shift = -mean * scale if a["bias"] is None else a["bias"] - mean * scale
    trailing = [1] * (max(input.dim(), 2) - 2)
    shift, scale = shift.reshape(-1, *trailing), scale.reshape(-1, *trailing)
    if input.deferred is not None:
        result: Decomposed = input.deferred.then(constant_step(input, shift, scale))
        return result
    return add_constant(input, shift, scale)


@cd_rule("local_response_norm")
def local_response_norm(  # noqa: PLR0913, PLR0917
    function: Any, input: Decomposed, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Decomposed:
    """The input over (k + alpha * mean of the squares of `size` neighbouring channels)^beta, frozen at the total."""
    squares = functional.pad(input.total.square().movedim(1, -1), (size // 2, (size - 1) // 2))
    mean = squares.unfold(-1, size, 1).mean(-1).movedim(-1, 1)
    return input.like(input.parts * (k + alpha * mean) ** -beta)

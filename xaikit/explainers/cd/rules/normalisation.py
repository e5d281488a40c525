"""Normalisation: linear with the scale frozen at the total; the shift is a constant to be shared."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.explainers.cd.constants import add_constant, constant_step
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.registry import cd_rule


def scaled(x: Decomposed, scale: Tensor, bias: Tensor | None) -> Decomposed:
    """Compute scale * x + bias for a fresh x."""
    return x.like(x.parts * scale) if bias is None else add_constant(x, bias, scale, may_overwrite=True)


def per_channel(values: Tensor | None, ndim: int) -> Any:
    """One value per channel, to be broadcast against (batch, channels, ...)."""
    return None if values is None else values.reshape(-1, *[1] * (ndim - 2))


@cd_rule("layer_norm")
def layer_norm(
    function: Any,
    input: Decomposed,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *backend: Any,
) -> Decomposed:
    """(v - mean v) * w / std t for each part v, then the bias."""
    dims = tuple(range(-len(normalized_shape), 0))
    centred = input.like(input.parts - input.parts.mean(dims, keepdim=True))
    scale = torch.rsqrt(centred.total.square().mean(dims, keepdim=True) + eps)
    return scaled(centred, scale if weight is None else scale * weight, bias)


@cd_rule("rms_norm")
def rms_norm(
    function: Any, input: Decomposed, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Decomposed:
    """Compute v * w / rms t for each part v."""
    dims = tuple(range(-len(normalized_shape), 0))
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    scale = torch.rsqrt(input.total.square().mean(dims, keepdim=True) + eps)
    return scaled(input, scale if weight is None else scale * weight, None)


@cd_rule("group_norm")
def group_norm(
    function: Any,
    input: Decomposed,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *backend: Any,
) -> Decomposed:
    """As layer_norm, over each group of channels."""
    grouped = input.total.unflatten(1, (num_groups, -1)).flatten(2)
    std_inverse = torch.rsqrt(grouped.var(-1, correction=0) + eps).repeat_interleave(input.shape[1] // num_groups, 1)
    parts = input.parts.unflatten(3, (num_groups, -1))
    mean = parts.flatten(4).mean(-1).reshape(*parts.shape[:4], *[1] * (parts.dim() - 4))
    scale = std_inverse.reshape(*std_inverse.shape, *[1] * (input.dim() - 2))
    if weight is not None:
        scale = scale * per_channel(weight, input.dim())
    return scaled(input.like((parts - mean).flatten(3, 4)), scale, per_channel(bias, input.dim()))


@cd_rule("instance_norm")
def instance_norm(  # noqa: PLR0913, PLR0917  the signature is torch's
    function: Any,
    input: Decomposed,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *backend: Any,
) -> Decomposed:
    """One group per channel; with running statistics it is a batch norm in evaluation mode."""
    if not inspect.isfunction(function):  # torch.instance_norm takes weight and bias first
        running_mean, running_var, weight, bias = weight, bias, running_mean, running_var
    if not use_input_stats:
        return batch_norm(functional.batch_norm, input, running_mean, running_var, weight, bias, eps=eps)
    return group_norm(function, input, input.shape[1], weight, bias, eps)


@cd_rule("batch_norm")
def batch_norm(  # noqa: PLR0913, PLR0917  the signature is torch's
    function: Any,
    input: Decomposed,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *backend: Any,
) -> Decomposed:
    """Affine: scale g = w / std and constant b - mean g. Without running statistics those of the total."""
    if not inspect.isfunction(function):  # torch.batch_norm takes weight and bias first
        running_mean, running_var, weight, bias = weight, bias, running_mean, running_var
    mean, variance = running_mean, running_var
    if training or mean is None or variance is None:
        dims = [dim for dim in range(input.dim()) if dim != 1]
        variance, mean = torch.var_mean(input.total, dims, correction=0)
    scale = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    trailing = [1] * (max(input.dim(), 2) - 2)
    shift, scale = shift.reshape(-1, *trailing), scale.reshape(-1, *trailing)
    if input.deferred is not None:
        return input.deferred.then(constant_step(input, shift, scale))
    return add_constant(input, shift, scale)


@cd_rule("local_response_norm")
def local_response_norm(  # noqa: PLR0913, PLR0917
    function: Any, input: Decomposed, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Decomposed:
    """The input over (k + alpha * mean of the squares of `size` neighbouring channels)^beta, frozen at the total."""
    squares = functional.pad(input.total.square().movedim(1, -1), (size // 2, (size - 1) // 2))
    mean = squares.unfold(-1, size, 1).mean(-1).movedim(-1, 1)
    return input.like(input.parts * (k + alpha * mean) ** -beta)

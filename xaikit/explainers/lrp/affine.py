"""Linear and convolutional operations, wherever they are called, with BatchNorm folded into them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaikit.explainers.lrp.flow import Beside, Output, Ruled, Stop
from xaikit.explainers.lrp.functional import shared
from xaikit.explainers.lrp.layers import Affine, Operation
from xaikit.explainers.lrp.marks import PLAIN, Mark
from xaikit.explainers.lrp.operations import arguments, rule

if TYPE_CHECKING:
    from xaikit.explainers.lrp.live import Rule
    from xaikit.explainers.lrp.trace import Trace


@dataclasses.dataclass(frozen=True)
class Standing:
    """A BatchNorm that no affine operation precedes: y = scale * x + shift, per channel (dimension 1).

    `y` has no rule of its own, for the affine operation behind, of which the BatchNorm then becomes part.
    """

    x: Tensor
    y: Tensor
    scale: Tensor
    shift: Tensor


def ruled(trace: Trace, layer: Affine, found: Rule | None) -> Tensor:
    """The layer's output with its rule, marked as such."""
    return trace.mark(_with_rule(trace, layer, found), Mark(layer=dataclasses.replace(layer, rule=found)))


def _with_rule(trace: Trace, layer: Affine, found: Rule | None) -> Tensor:
    """The layer's output with its rule; without one relevance follows the gradient, which is LRP-0."""
    y = layer.y
    if found is not None and found.damp is not None:
        y = Output.apply(layer.y, found.damp, trace.flow)
    elif found is not None and found.make is not None:
        y = Ruled.apply(layer.x, layer.y, found.make(found.hook, layer.operation), trace.flow, layer.weight, layer.bias)
    return y if layer.side is None else Beside.apply(y, _with_rule(trace, layer.side, found), trace.flow)


def _layer(
    trace: Trace, x: Tensor, weight: Tensor, bias: Tensor | None, operation: Operation, proxy: type[nn.Module]
) -> Tensor:
    """The output of an affine operation; a BatchNorm in front of it becomes part of it."""
    found, mark = trace.layer_rule(proxy), trace.marks[x]
    norm = mark.norm if operation.channel_dim % x.ndim == 1 else None

    def on(value: Tensor) -> Affine:
        return Affine(value, operation.forward(value, weight, bias), weight, bias, operation)

    if norm is None:
        return ruled(trace, on(x), found)
    layer = on(norm.y)
    if found is not None and found.make is not None:
        layer = folded_before(layer, norm)
    return ruled(trace, layer if mark.tap is None else dataclasses.replace(layer, side=on(mark.tap)), found)


LINEAR = Operation(F.linear, lambda g, w, _x: g @ w, channel_dim=-1)
MATRIX = Operation(
    lambda x, w, b: x @ w if b is None else torch.addmm(b, x, w), lambda g, w, _x: g @ w.t(), out_dim=1, channel_dim=-1
)


@rule("linear")
def linear(trace: Trace, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A linear layer, y = x W^T + b."""
    a = arguments("input weight bias", args, kwargs, bias=None)
    if _computed(trace, a):
        return _dynamic(trace, func, a)
    return _layer(trace, a["input"], a["weight"], a["bias"], LINEAR, nn.Linear)


@rule("addmm")
def addmm(trace: Trace, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A linear layer as GPT-2 writes it, y = x W + b."""
    a = arguments("input mat1 mat2", args, kwargs, beta=1, alpha=1)
    bias, x, w = a["input"], a["mat1"], a["mat2"]
    if trace.is_live(w) or trace.is_live(bias) or not trace.is_live(x) or (a["alpha"], a["beta"]) != (1, 1):
        (x, w), _ = shared(trace, [x, w])
        return trace.mark(func(bias, x, w, alpha=a["alpha"], beta=a["beta"]))
    return _layer(trace, x, w, bias, MATRIX, nn.Linear)


@rule("matmul", "__matmul__", "__rmatmul__")
def matmul(trace: Trace, func: Any, x: Any, y: Any) -> Tensor:
    """A linear layer where one factor is a constant matrix, a product otherwise."""
    weight = x if func.__name__ == "__rmatmul__" else y
    value = y if weight is x else x
    if trace.is_live(value) and not trace.is_live(weight) and weight.ndim == 2 and value.ndim >= 2:
        return _layer(trace, value, weight, None, MATRIX, nn.Linear)
    (x, y), mark = shared(trace, [x, y])
    return trace.mark(func(x, y), mark)


def _computed(trace: Trace, a: dict[str, Any]) -> bool:
    """Whether a layer's parameters, and not only its input, were computed from the explained input."""
    return trace.is_live(a["weight"]) or trace.is_live(a["bias"]) or not trace.is_live(a["input"])


def _dynamic(trace: Trace, func: Any, a: dict[str, Any]) -> Tensor:
    """A layer whose weight was computed from the input is a product of two signals."""
    (a["input"], a["weight"]), _ = shared(trace, [a["input"], a["weight"]])
    return trace.mark(func(**a) if func is not F.linear else func(a["input"], a["weight"], a["bias"]))


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@rule("conv1d", "conv2d", "conv3d")
def convolution(trace: Trace, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A convolution."""
    names = "input weight bias stride padding dilation groups"
    a = arguments(names, args, kwargs, bias=None, stride=1, padding=0, dilation=1, groups=1)
    return _convolution(trace, func, a, transposed=False)


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(trace: Trace, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A transposed convolution."""
    names = "input weight bias stride padding output_padding groups dilation"
    a = arguments(names, args, kwargs, bias=None, stride=1, padding=0, output_padding=0, groups=1, dilation=1)
    return _convolution(trace, func, a, transposed=True)


def _convolution(trace: Trace, func: Any, a: dict[str, Any], *, transposed: bool) -> Tensor:
    if _computed(trace, a):
        return _dynamic(trace, func, a)
    x, weight, bias = a.pop("input"), a.pop("weight"), a.pop("bias")
    n = weight.ndim - 2

    def forward(v: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if b is not None and b.ndim > 1:  # the map that a BatchNorm before a padded convolution leaves
            return func(v, w, None, **a) + b
        return func(v, w, b, **a)

    def transpose(g: Tensor, w: Tensor, v: Tensor) -> Tensor:
        if isinstance(a["padding"], str) or v.ndim != n + 2:
            with torch.enable_grad():
                v = v.detach().requires_grad_()
                return torch.autograd.grad(func(v, w, None, **a), v, g, create_graph=torch.is_grad_enabled())[0]
        sizes = [_tuple(a[k], n) for k in ("stride", "padding", "dilation")]
        extra = _tuple(a.get("output_padding", 0), n)
        only_input = (True, False, False)
        return torch.ops.aten.convolution_backward(g, v, w, None, *sizes, transposed, extra, a["groups"], only_input)[0]

    operation = Operation(forward, transpose, int(transposed), x.ndim - n - 1, a["groups"])
    return _layer(trace, x, weight, bias, operation, (TRANSPOSED if transposed else CONVOLUTIONS)[n])


def _tuple(value: Any, n: int) -> list[int]:
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return values * n if len(values) == 1 else values


@rule("batch_norm")
def batch_norm(trace: Trace, _func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """An affine map, scale * x + shift with the running statistics: part of the affine operation before or after it.

    Where neither is there, or the composite has a rule for it, it is a layer of its own (`_alone`).
    """
    names = "input running_mean running_var weight bias training momentum eps"
    a = arguments(names, args, kwargs, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5)
    x, mean, var = a["input"], a["running_mean"], a["running_var"]
    if a["training"] or mean is None or var is None:
        return _batch_statistics(trace, a)
    scale = (var + a["eps"]).rsqrt() if a["weight"] is None else a["weight"] * (var + a["eps"]).rsqrt()
    shift = -mean * scale if a["bias"] is None else a["bias"] - mean * scale
    if trace.norm_has_rule():  # and gets it as a module
        return trace.mark(DIAGONAL.forward(x, scale, shift))
    mark, found = trace.marks[x], trace.rules.of_norm()
    if mark.layer is not None and mark.layer.operation.channel_dim % x.ndim == 1:
        layer = folded_after(mark.layer, scale, shift)
        y = ruled(trace, layer, layer.rule)
        if mark.tap is None:
            return y
        side = _with_rule(trace, _alone(mark.tap, scale, shift), found)
        return trace.mark(Beside.apply(y, side, trace.flow), trace.marks[y])
    layer = _alone(x, scale, shift)
    return trace.mark(_with_rule(trace, layer, found), Mark(norm=Standing(x, layer.y, scale, shift)))


def _channels(value: Tensor, x: Tensor) -> Tensor:
    return value.view(-1, *(1,) * (x.ndim - 2))


# A product and a sum, not torch's own: its gradient is wrong for a batch of one whose gradient comes transposed (2.13).
DIAGONAL = Operation(
    lambda x, w, b: x * _channels(w, x) if b is None else (x * _channels(w, x)).add_(_channels(b, x)),
    lambda g, w, _x: g * _channels(w, g),
)


def _alone(x: Tensor, scale: Tensor, shift: Tensor) -> Affine:
    """A BatchNorm with no affine operation beside it: a linear layer with a diagonal matrix, and with its rule.

    The epsilon rule makes that R_in = scale * x * R / (y + epsilon * sign(y)). A convolution's rule would not do: each
    output has one contribution, so z+ would withhold the relevance of every negative output, alpha-beta double that of
    every positive one.
    """
    return Affine(x, DIAGONAL.forward(x, scale, shift), scale, shift, DIAGONAL)


def _batch_statistics(trace: Trace, a: dict[str, Any]) -> Tensor:
    """A BatchNorm without running statistics normalises by the batch: the scale is frozen."""
    x: Tensor = a["input"]
    dims = [0, *range(2, x.ndim)]
    channels = (1, -1) + (1,) * (x.ndim - 2)
    frozen = (x.var(dims, unbiased=False, keepdim=True) + a["eps"]).rsqrt()
    y = (x - x.mean(dims, keepdim=True)) * Stop.apply(frozen, trace.flow)
    y = y if a["weight"] is None else y * a["weight"].view(channels)
    return trace.mark(y if a["bias"] is None else y + a["bias"].view(channels), PLAIN)


def scaled(w: Tensor, scale: Tensor, operation: Operation, *, inputs: bool = False) -> Tensor:
    """W times one number for each output channel, or for each input channel."""
    rest = (1,) * (w.ndim - 2)
    if (operation.out_dim == 0) != inputs:  # the channels are in dimension 0, which holds those of all groups
        return w * scale.view(-1, 1, *rest)
    blocks = w.reshape(operation.groups, -1, *w.shape[1:])
    return (blocks * scale.view(operation.groups, 1, -1, *rest)).reshape(w.shape)


def folded_after(layer: Affine, scale: Tensor, shift: Tensor) -> Affine:
    """One layer in place of an affine one and the BatchNorm behind it: W' = scale * W, b' = scale * b + shift."""
    y = DIAGONAL.forward(layer.y, scale, shift)
    weight, rest = scaled(layer.weight, scale, layer.operation), (1,) * (layer.weight.ndim - 2)
    if layer.bias is None:
        bias = shift
    elif layer.bias.ndim > 1:
        bias = layer.bias * scale.view(-1, *rest) + shift.view(-1, *rest)
    else:
        bias = layer.bias * scale + shift
    side = None if layer.side is None else folded_after(layer.side, scale, shift)
    return dataclasses.replace(layer, y=y, weight=weight, bias=bias, side=side)


def folded_before(layer: Affine, norm: Standing) -> Affine:
    """One affine layer in place of a BatchNorm and the affine layer behind it: W (scale * x + shift) + b.

    A padded convolution sees no shift beyond the border, so that the new bias is a map over the positions.
    """
    x, w = norm.x, layer.weight
    weight = scaled(w, norm.scale, layer.operation, inputs=True)
    constant = norm.shift.view(1, -1, *(1,) * (x.ndim - 2)).expand(1, *x.shape[1:])
    bias = layer.operation.forward(constant, w, layer.bias)
    return dataclasses.replace(layer, x=x, weight=weight, bias=bias[0] if bias.ndim == 2 else bias)

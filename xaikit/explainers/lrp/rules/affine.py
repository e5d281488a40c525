"""Linear and convolutional operations, wherever they are called, with the rule that the composite gives to them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.convolutions import DTYPES, Form, InputGradient, by_fast_kernels, few_channels
from xaikit.explainers.lrp.factors import damped_output
from xaikit.explainers.lrp.layers import Affine, Operation, folded_before
from xaikit.explainers.lrp.marks import Mark
from xaikit.explainers.lrp.operations import written_out
from xaikit.explainers.lrp.registry import rule
from xaikit.explainers.lrp.rules.products import shared
from xaikit.torch_ops import by_name, operation_name

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


def ruled(trace: Trace, layer: Affine) -> Tensor:
    """The layer's output with its rule, marked as such."""
    return trace.mark(with_rule(trace, layer), Mark(layer=layer))


def with_rule(trace: Trace, layer: Affine) -> Tensor:
    """The layer's output with its rule."""
    y, rule, operation = layer.y, layer.rule, layer.operation  # the step must not hold the layer, which holds x and y
    fixed = trace.marks[layer.x].fixed  # no derivative by x is needed, only by the weights

    def formula(x: Tensor, *others: Any) -> Tensor:
        return rule.formula(rule.hook, operation, x.detach() if fixed else x, *others)

    if rule.damp is not None:
        y = damped_output(trace.flow, y, rule.damp)
    elif rule.formula is not None:
        y = trace.flow.ruled_by(formula, layer.x, y, layer.weight, layer.scale, layer.bias)
    return y if layer.side is None else trace.flow.branched(y, with_rule(trace, layer.side))


def _layer(
    trace: Trace, x: Tensor, weight: Tensor, bias: Tensor | None, operation: Operation, proxy: type[nn.Module]
) -> Tensor:
    """The output of an affine operation; a BatchNorm in front of it becomes part of it."""
    layer_rule, mark = trace.layer_rule(proxy, x, weight), trace.marks[x]
    norm = mark.norm if operation.channel_dim % x.ndim == 1 else None

    def on(value: Tensor) -> Affine:
        if layer_rule.formula is None:
            return Affine(value, operation.forward(value, weight, bias), weight, bias, operation, layer_rule)
        with trace.flow.values_only():  # relevance takes the way of the rule
            y = operation.forward(value.detach() if trace.marks[value].fixed else value, weight, bias)
        return Affine(value, y, weight, bias, operation, layer_rule)

    layer = on(x if norm is None else norm.y)
    if norm is not None:
        if layer_rule.formula is not None:
            layer = folded_before(layer, norm)
        layer = dataclasses.replace(layer, side=None if mark.tap is None else on(mark.tap))
    return ruled(trace, layer)


LINEAR = Operation(F.linear, lambda g, w, _x: g @ w, channel_dim=-1)
MATRIX = Operation(
    lambda x, w, b: x @ w if b is None else torch.addmm(b, x, w), lambda g, w, _x: g @ w.mT, out_dim=1, channel_dim=-1
)


@rule("linear")
def linear(trace: Trace, function: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """A linear layer, y = x W^T + b."""
    if _computed(trace, x, weight, bias):
        (x, weight), _ = shared(trace, [x, weight])
        return trace.mark(function(x, weight, bias))
    return _layer(trace, x, weight, bias, LINEAR, nn.Linear)


@rule("addmm")
def addmm(trace: Trace, function: Any, bias: Tensor, x: Tensor, weight: Tensor, **factors: Any) -> Tensor:
    """A linear layer as GPT-2 writes it, y = x W + b."""
    if _computed(trace, x, weight, bias) or any(factor != 1 for factor in factors.values()) or bias.ndim > 1:
        return written_out(trace, function, bias, x, weight, **factors)
    return _layer(trace, x, weight, bias, MATRIX, nn.Linear)


@rule("matmul", "rmatmul", "mm", "bmm")
def matmul(trace: Trace, function: Any, x: Any, y: Any) -> Tensor:
    """A linear layer where the second factor is a constant matrix, or one for each of a batch; a product otherwise."""
    reflected = operation_name(function) == "rmatmul"
    value, weight = (y, x) if reflected else (x, y)
    if value in trace.marks and weight not in trace.marks and 2 <= weight.ndim <= value.ndim:
        return _layer(trace, value, weight, None, MATRIX, nn.Linear)
    (x, y), mark = shared(trace, [x, y])
    return trace.mark(function(x, y), mark)


def _computed(trace: Trace, x: Any, *parameters: Any) -> bool:
    """Whether a layer's parameters, and not only its input, were computed from the explained input."""
    return x not in trace.marks or any(p in trace.marks for p in parameters)


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@rule("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def convolution(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A convolution, plain or transposed."""
    a = by_name(function, args, kwargs)
    x, weight, bias = a.pop("input"), a.pop("weight"), a.pop("bias")
    # The operator of exported programs says in an argument which of the two it is, and takes all by position.
    general = operation_name(function) == "convolution"
    transposed = a["transposed"] if general else "transpose" in operation_name(function)

    def run(v: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return function(v, w, b, *a.values()) if general else function(v, w, b, **a)

    if _computed(trace, x, weight, bias):
        (x, weight), _ = shared(trace, [x, weight])
        return trace.mark(run(x, weight, bias))
    n, groups = weight.ndim - 2, a["groups"]
    form = None
    if not isinstance(a["padding"], str):
        stride, padding, dilation = (tuple(_list(a[k], n)) for k in ("stride", "padding", "dilation"))
        form = Form(stride, padding, dilation, groups)

    def has_fast_kernel(t: Tensor, w: Tensor) -> bool:
        # In several passes g may have few channels, too.
        plain = form is not None and not transposed and n < 3 and (trace.flow.factors_stay or few_channels(w, groups))
        return plain and t.dtype == w.dtype and t.dtype in DTYPES and t.device.type == "cpu"

    def forward(v: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        if b is not None and b.ndim > 1:  # what a BatchNorm before a padded convolution leaves
            return forward(v, w, None) + b
        y = run(v, w, b)
        sees_input = y.grad_fn is not None and v.requires_grad and y.dtype == v.dtype and v.ndim == n + 2
        fast = sees_input and has_fast_kernel(y, w) and not torch_private.is_batched(y)
        return by_fast_kernels(v, w, b, y, form) if fast else y  # type: ignore[arg-type]

    def transpose(g: Tensor, w: Tensor, v: Tensor) -> Tensor:
        if form is None or v.ndim != n + 2:
            with torch.enable_grad():
                v = v.detach().requires_grad_()
                return torch.autograd.grad(run(v, w, None), v, g, create_graph=torch.is_grad_enabled())[0]
        if has_fast_kernel(g, w):
            return InputGradient.apply(g, w, v, form)  # type: ignore[no-any-return]
        v, w = v.to(g.dtype), w.to(g.dtype)  # under autocast the output alone has the lower precision
        settings = *form[:3], transposed, _list(a.get("output_padding", 0), n), groups
        return torch.ops.aten.convolution_backward(g, v, w, None, *settings, (True, False, False))[0]

    operation = Operation(forward, transpose, int(transposed), x.ndim - n - 1, groups)
    return _layer(trace, x, weight, bias, operation, (TRANSPOSED if transposed else CONVOLUTIONS)[n])


def _list(value: Any, n: int) -> list[int]:
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    return values * n if len(values) == 1 else values

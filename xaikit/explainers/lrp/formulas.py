"""zennit's rules as functions of live tensors.

zennit's own hooks evaluate a rule on ``Parameter(modifier(parameter.data))``, which cuts the path to the weights. Here
the same modifiers act on the live tensors, so that the relevance can be differentiated with respect to every parameter.
Known rules use what the forward pass has computed already; any other BasicHook goes the general way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.explainers.lrp.flow import nonzero
from xaikit.explainers.lrp.layers import Operation


def parameter(hook: Any, index: int, tensor: Tensor | None, name: str) -> Any:
    """The parameter as the hook's modifier number `index` wants it, still connected to the model's own."""
    modifier = hook.param_modifiers[index]
    if tensor is None:
        return None
    zeroed = getattr(modifier, "zero_params", None) or ()
    if name == zeroed or (not isinstance(zeroed, str) and name in zeroed):
        return torch.zeros_like(tensor)
    keys = getattr(modifier, "param_keys", None)
    if keys is not None and name not in keys:
        return tensor
    return getattr(modifier, "modifier", modifier)(tensor, name)


def general(hook: Any, forward: Callable[[Tensor, int], Tensor], x: Tensor, relevance: Tensor) -> Tensor:
    """R_in / x of any BasicHook: one forward and one backward pass for each of its modifiers.

    `forward(input, index)` is the layer with its parameters modified by modifier number `index`.
    """
    inputs, outputs = [], []
    with torch.enable_grad():
        for index, (modify, finish) in enumerate(zip(hook.input_modifiers, hook.output_modifiers, strict=True)):
            value = modify(x)
            # A view of its own for each modifier: several may return x itself.
            value = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
            inputs.append(value)
            outputs.append(finish(forward(value, index)))
    gradients = torch.autograd.grad(
        outputs, inputs, hook.gradient_mapper(relevance, outputs), create_graph=torch.is_grad_enabled()
    )
    return hook.reducer(inputs, gradients) / nonzero(x)


def any_hook(hook: Any, operation: Operation) -> Callable[..., Tensor]:
    """The rule of any BasicHook on an affine operation."""

    def rule(x: Tensor, _y: Tensor, relevance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        def forward(value: Tensor, index: int) -> Tensor:
            w, b = parameter(hook, index, weight, "weight"), parameter(hook, index, bias, "bias")
            return operation.forward(value, w, b)

        return general(hook, forward, x, relevance)

    return rule


def passed_on(hook: Any, operation: Operation) -> Callable[..., Tensor]:  # noqa: ARG001
    """The Pass of zennit: R_in = R_out, for a layer whose input and output have one shape."""

    def rule(x: Tensor, _y: Tensor, relevance: Tensor, *_parameters: Tensor | None) -> Tensor:
        if relevance.shape != x.shape:
            raise InvalidInputError(
                f"zennit's Pass hands relevance on as it is, so it fits no layer from {tuple(x.shape)} to "
                f"{tuple(relevance.shape)}; give such layers another rule"
            )
        return relevance / nonzero(x)

    return rule


def _signed(
    operation: Operation, hook: Any, x: Tensor, weight: Tensor, bias: Tensor | None, first: int
) -> tuple[Tensor, bool]:
    """Output of the hook's modifiers `first` (x >= 0) and `first + 1` (x < 0) together, and whether x has negatives.

    The negative part costs a pass of its own only where there is one: after a ReLU there is none.
    """
    negative = bool((x < 0).any())
    out = operation.forward(
        x.clamp(min=0) if negative else x,
        parameter(hook, first, weight, "weight"),
        parameter(hook, first, bias, "bias"),
    )
    if negative:
        out = out + operation.forward(x.clamp(max=0), parameter(hook, first + 1, weight, "weight"), None)
    return out, negative


def _transposed(
    operation: Operation, hook: Any, x: Tensor, weight: Tensor, g: Tensor, first: int, negative: bool
) -> Tensor:
    """The way back of `_signed`: W'^T g where x >= 0, W''^T g where x < 0."""
    back = operation.transpose(g, parameter(hook, first, weight, "weight"), x)
    if not negative:
        return back
    return torch.where(x < 0, operation.transpose(g, parameter(hook, first + 1, weight, "weight"), x), back)


def zplus(hook: Any, operation: Operation) -> Callable[..., Tensor]:
    """z+ rule: R_in = x * (W'^T (R / z')), z' the sum of all positive contributions. One pass beside the gradient's."""

    def rule(x: Tensor, _y: Tensor, relevance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        z, negative = _signed(operation, hook, x, weight, bias, 0)
        g = hook.gradient_mapper(relevance, [z])[0]
        return _transposed(operation, hook, x, weight, g, 0, negative)

    return rule


def two_signs(hook: Any, operation: Operation) -> Callable[..., Tensor]:
    """Gamma and alpha-beta rules: the contributions of each sign have a denominator of their own.

    Both are x * (W'^T g' + W''^T g''), where the hook's mapper makes g' and g'' of R and of the two sums z' and z''.
    """

    def rule(x: Tensor, y: Tensor, relevance: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        first, negative = _signed(operation, hook, x, weight, bias, 0)
        second, _ = _signed(operation, hook, x, weight, bias, 2)
        zero = torch.zeros((), dtype=x.dtype, device=x.device)
        outputs = [first, zero, second, zero, y]
        g = hook.gradient_mapper(relevance, outputs[: len(hook.input_modifiers)])
        back = [_transposed(operation, hook, x, weight, g[i], i, negative) for i in (0, 2)]
        # The reducer is linear in x * gradient, so that x = 1 leaves R_in / x.
        one, zero = torch.ones_like(x), torch.zeros_like(x)
        return hook.reducer([one, zero, one, zero], [back[0], zero, back[1], zero])

    return rule

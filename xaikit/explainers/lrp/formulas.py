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
from xaikit.explainers.lrp.flow import nonzero, per_unit, ratio, relevance_of
from xaikit.explainers.lrp.layers import Operation, scaled

Formula = Callable[..., Tensor]  # (x, y, R / y, W, factors of its output channels, b) -> R_in / x


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


def any_hook(hook: Any, operation: Operation) -> Formula:
    """The rule of any BasicHook on an affine operation."""

    def rule(x: Tensor, y: Tensor, g: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        folded = weight if scale is None else scaled(weight, scale, operation)

        def forward(value: Tensor, index: int) -> Tensor:
            w, b = parameter(hook, index, folded, "weight"), parameter(hook, index, bias, "bias")
            return operation.forward(value, w, b)

        return general(hook, forward, x, relevance_of(g, y))

    return rule


def passed_on(hook: Any, operation: Operation) -> Formula:  # noqa: ARG001
    """The Pass of zennit: R_in = R_out, for a layer whose input and output have one shape."""

    def rule(x: Tensor, y: Tensor, g: Tensor, *_parameters: Tensor | None) -> Tensor:
        if y.shape != x.shape:
            raise InvalidInputError(
                f"zennit's Pass hands relevance on as it is, so it fits no layer from {tuple(x.shape)} to "
                f"{tuple(y.shape)}; give such layers another rule"
            )
        return per_unit(relevance_of(g, y), x)

    return rule


class SignedInputs:
    """An affine operation with a weight for positive inputs and another for negative ones.

    Negative inputs cost something only where there are any: after a ReLU there are none. A convolution takes them as
    further channels, any other operation in a pass of their own.
    """

    def __init__(
        self, hook: Any, operation: Operation, x: Tensor, weight: Tensor, scale: Tensor | None, bias: Tensor | None
    ) -> None:
        self.hook, self.operation, self.x, self.bias = hook, operation, x, bias
        self.weight = weight if scale is None else scaled(weight, scale, operation)
        self.negative = x.numel() > 0 and bool(x.detach().amin() < 0)
        self.stacked = self.negative and operation.groups == 1 and operation.channel_dim >= 0 and weight.ndim > 2
        self.inputs = [x] if not self.negative else [x.clamp(min=0), x.clamp(max=0)]
        if self.stacked:
            self.inputs = [torch.cat(self.inputs, operation.channel_dim)]
        self.weights: dict[int, list[Tensor]] = {}

    def _weights(self, index: int) -> list[Tensor]:
        """The weight of each input, by the hook's modifiers `index` (for x >= 0) and `index + 1` (for x < 0)."""
        if index not in self.weights:
            both = range(index, index + 1 + self.negative)
            weights = [parameter(self.hook, i, self.weight, "weight") for i in both]
            self.weights[index] = [torch.cat(weights, 1 - self.operation.out_dim)] if self.stacked else weights
        return self.weights[index]

    def forward(self, index: int) -> Tensor:
        """The output for all inputs together."""
        biases = (parameter(self.hook, index, self.bias, "bias"), None)
        passes = zip(self.inputs, self._weights(index), biases, strict=False)
        first, *others = (self.operation.forward(x, w, b) for x, w, b in passes)
        return first + others[0] if others else first

    def backward(self, g: Tensor, index: int) -> Tensor:
        """The way back: W'^T g where x >= 0, W''^T g where x < 0."""
        passes = zip(self._weights(index), self.inputs, strict=True)
        back = [self.operation.transpose(g, w, x) for w, x in passes]
        if not self.negative:
            return back[0]
        positive, negative = back[0].chunk(2, self.operation.channel_dim) if self.stacked else back
        return torch.where(self.x < 0, negative, positive)


def stabilised(z: Tensor, epsilon: float, sign: Tensor) -> Tensor:
    """Z + epsilon * sign, +1 for the sign of 0."""
    stabilizer = torch.copysign(torch.full((), epsilon, dtype=z.dtype, device=z.device), sign)
    return z + stabilizer if torch.is_grad_enabled() else stabilizer.add_(z)


def zplus(hook: Any, operation: Operation, *, epsilon: float | None) -> Formula:
    """z+ rule: R_in = x * (W+^T (R / z+)), z+ the sum of all positive contributions. One pass beside the gradient's."""

    def rule(x: Tensor, y: Tensor, g: Tensor, *parameters: Any) -> Tensor:
        inputs = SignedInputs(hook, operation, x, *parameters)
        z = inputs.forward(0)
        if epsilon is None:
            return inputs.backward(hook.gradient_mapper(relevance_of(g, y), [z])[0], 0)
        return inputs.backward(ratio(g, y, z + epsilon), 0)

    return rule


def alpha_beta(hook: Any, operation: Operation, *, epsilon: float | None) -> Formula:
    """Alpha-beta rule: R_in = x * (a W+^T (R / z+) - b W-^T (R / z-)), contributions of each sign by themselves."""
    a, minus_b = (hook.reducer(unit, unit) for unit in ([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]))

    def rule(x: Tensor, y: Tensor, g: Tensor, *parameters: Any) -> Tensor:
        inputs = SignedInputs(hook, operation, x, *parameters)
        positive, negative = inputs.forward(0), inputs.forward(2)
        if epsilon is None:
            up, _, down, _ = hook.gradient_mapper(relevance_of(g, y), [positive, 0, negative, 0])
        else:
            up = ratio(g, y, stabilised(positive, epsilon, positive))
            down = ratio(g, y, stabilised(negative, epsilon, negative))
        return a * inputs.backward(up, 0) + minus_b * inputs.backward(down, 2)

    return rule


def gamma(hook: Any, operation: Operation, *, epsilon: float, weight: float) -> Formula:
    """Gamma rule: contributions of the output's own sign weigh 1 + gamma, z' = y + gamma z+ where y > 0, else gamma z-.

    R_in = x * (W'^T (R / z' where y > 0) + W''^T (R / z'' where y < 0)), W' = W + gamma W+ and W'' = W + gamma W-.
    Since y = z+ + z-, one pass gives both denominators: z'' = (2 + gamma) y - z'.
    """

    def rule(x: Tensor, y: Tensor, g: Tensor, *parameters: Any) -> Tensor:
        inputs = SignedInputs(hook, operation, x, *parameters)
        z, positive, negative = inputs.forward(0), y > 0, y < 0
        shares = ratio(g, y, stabilised(torch.where(positive, z, (2 + weight) * y - z), epsilon, y))
        return inputs.backward(shares * positive, 0) + inputs.backward(shares * negative, 2)

    return rule

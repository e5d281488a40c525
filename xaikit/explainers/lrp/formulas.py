"""zennit's rules as functions of live tensors.

zennit's own hooks evaluate a rule on ``Parameter(modifier(parameter.data))``, which cuts the path to the weights. Here
the same modifiers act on the live tensors, so that the relevance can be differentiated with respect to every parameter.
Known rules use what the forward pass has computed already; any other BasicHook goes the general way.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.explainers.lrp.flow import nonzero, per_unit, ratio, relevance_of, room_for
from xaikit.explainers.lrp.layers import DIAGONAL, Operation, scaled

Formula = Callable[..., Tensor]  # (hook, operation, x, y, R / y, W, factors of its output channels, b) -> R_in / x


@functools.lru_cache(maxsize=256)
def closure(function: Any) -> dict[str, Any]:
    """The variables that a function of zennit took from where it was defined."""
    return dict(inspect.getclosurevars(function).nonlocals)


def parameter(hook: Any, index: int, tensor: Tensor | None, name: str) -> Any:
    """The parameter as the hook's modifier number `index` wants it, still connected to the model's own."""
    modifier = hook.param_modifiers[index]
    if tensor is None:
        return None
    zeroed, keys = (getattr(modifier, attribute, None) for attribute in ("zero_params", "param_keys"))
    if name in ([zeroed] if isinstance(zeroed, str) else zeroed or ()):
        return torch.zeros_like(tensor)
    if keys is not None and name not in keys:
        return tensor
    modify = getattr(modifier, "modifier", modifier)
    v = closure(modify) if inspect.isfunction(modify) and modify.__module__ == "zennit.rules" else {}
    if v.keys() - {"gamma"} != {"min", "max"}:
        return modify(tensor, name)
    room = room_for(tensor, (name, index))
    clamped = torch.clamp(tensor, v["min"], v["max"], out=room)
    return torch.add(tensor, clamped, alpha=v["gamma"], out=room) if "gamma" in v else clamped


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


def any_hook(hook: Any, operation: Operation, x: Tensor, y: Tensor, g: Tensor, *parameters: Any) -> Tensor:
    """The rule of any BasicHook on an affine operation."""
    weight, scale, bias = parameters
    folded = weight if scale is None else scaled(weight, scale, operation)

    def forward(value: Tensor, index: int) -> Tensor:
        w, b = parameter(hook, index, folded, "weight"), parameter(hook, index, bias, "bias")
        return operation.forward(value, w, b)

    return general(hook, forward, x, relevance_of(g, y))


def passed_on(_hook: Any, _operation: Operation, x: Tensor, y: Tensor, g: Tensor, *_parameters: Any) -> Tensor:
    """The Pass of zennit: R_in = R_out, for a layer whose input and output have one shape."""
    if y.shape != x.shape:
        raise InvalidInputError(
            f"zennit's Pass hands relevance on as it is, so it fits no layer from {tuple(x.shape)} to "
            f"{tuple(y.shape)}; give such layers another rule"
        )
    return per_unit(relevance_of(g, y), x)


class SignedInputs:
    """An affine operation with a weight for positive inputs and another for negative ones.

    Negative inputs cost something only where there are any: after a ReLU there are none. A convolution takes them as
    further channels, any other operation in a pass of their own. Modifier i of the hook is for x >= 0, i + 1 for x < 0.
    """

    def __init__(self, hook: Any, operation: Operation, x: Tensor, y: Tensor, *parameters: Any) -> None:
        weight, scale, self.bias = parameters
        self.hook, self.operation, self.x, self.scale = hook, operation, x, None
        # A factor of the output costs less than one of the weights where these are larger, as in the end of a deep net.
        if scale is not None and self.bias.ndim == 1 and weight.numel() > y.numel() and bool((scale >= 0).all()):
            self.scale, scale = scale, None
        negative = x.numel() > 0 and bool(x.detach().amin() < 0)
        self.stacked = negative and operation.groups == 1 and operation.channel_dim >= 0 and weight.ndim > 2
        self.inputs = [x.clamp(min=0), x.clamp(max=0)] if negative else [x]
        folded = weight if scale is None else scaled(weight, scale, operation)
        self.weights = {
            i: [parameter(hook, i + sign, folded, "weight") for sign in range(1 + negative)]
            for i in range(0, len(hook.param_modifiers) - 1, 2)
        }
        if self.stacked:
            self.inputs = [torch.cat(self.inputs, operation.channel_dim)]
            self.weights = {i: [torch.cat(both, 1 - operation.out_dim)] for i, both in self.weights.items()}

    def forward(self, index: int) -> Tensor:
        """The output for all inputs together."""
        bias = parameter(self.hook, index, self.bias, "bias")
        biases = bias if self.scale is None else None, None
        passes = zip(self.inputs, self.weights[index], biases, strict=False)
        first, *others = (self.operation.forward(x, w, b) for x, w, b in passes)
        total = first + others[0] if others else first
        return total if self.scale is None else DIAGONAL.forward(total, self.scale, bias)

    def backward(self, g: Tensor, index: int) -> Tensor:
        """The way back: W'^T g where x >= 0, W''^T g where x < 0."""
        g = g if self.scale is None else DIAGONAL.transpose(g, self.scale, g)
        passes = zip(self.weights[index], self.inputs, strict=True)
        first, *others = (self.operation.transpose(g, w, x) for w, x in passes)
        if self.stacked:
            first, *others = first.chunk(2, self.operation.channel_dim)
        return torch.where(self.x < 0, others[0], first) if others else first


def stabilised(z: Tensor, epsilon: float, sign: Tensor) -> Tensor:
    """Z + epsilon * sign, +1 for the sign of 0."""
    stabilizer = torch.copysign(torch.full((), epsilon, dtype=z.dtype, device=z.device), sign)
    return z + stabilizer if torch.is_grad_enabled() else stabilizer.add_(z)


def zplus(hook: Any, operation: Operation, x: Tensor, y: Tensor, g: Tensor, *parameters: Any, epsilon: float) -> Tensor:
    """z+ rule: R_in = x * (W+^T (R / z+)), z+ the sum of all positive contributions. One pass beside the gradient's."""
    inputs = SignedInputs(hook, operation, x, y, *parameters)
    return inputs.backward(ratio(g, y, inputs.forward(0) + epsilon), 0)


def alpha_beta(
    hook: Any, operation: Operation, x: Tensor, y: Tensor, g: Tensor, *parameters: Any, epsilon: float
) -> Tensor:
    """Alpha-beta rule: R_in = x * (a W+^T (R / z+) - b W-^T (R / z-)), contributions of each sign by themselves."""
    inputs = SignedInputs(hook, operation, x, y, *parameters)
    up, down = (ratio(g, y, stabilised(z, epsilon, z)) for z in (inputs.forward(0), inputs.forward(2)))
    a, minus_b = (hook.reducer(unit, unit) for unit in ([1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]))
    return a * inputs.backward(up, 0) + minus_b * inputs.backward(down, 2)  # type: ignore[no-any-return]


def gamma(hook: Any, operation: Operation, x: Tensor, y: Tensor, g: Tensor, *parameters: Any, epsilon: float) -> Tensor:
    """Gamma rule: contributions of the output's own sign weigh 1 + gamma, z' = y + gamma z+ where y > 0, else gamma z-.

    R_in = x * (W'^T (R / z' where y > 0) + W''^T (R / z'' where y < 0)), W' = W + gamma W+ and W'' = W + gamma W-.
    Since y = z+ + z-, one pass gives both denominators: z'' = (2 + gamma) y - z'.
    """
    inputs, positive, negative = SignedInputs(hook, operation, x, y, *parameters), y > 0, y < 0
    z, weight = inputs.forward(0), closure(hook.param_modifiers[0].modifier)["gamma"]
    shares = ratio(g, y, stabilised(torch.where(positive, z, (2 + weight) * y - z), epsilon, y))
    return inputs.backward(shares * positive, 0) + inputs.backward(shares * negative, 2)

"""One step of a GRU or of a plain recurrent net, by the general rules for sums, activations and products.

The new state of a GRU is h' = n + z (h - n) with n = tanh(x_n + q h_n), update gate z and reset gate q.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.constants import threshold
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.torch_ops.recurrent import Weights


def factors(like: Tensor, *values: float) -> Tensor:
    """One factor for each of some stacked tensors (len(values), masks, N, features)."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, 1, 1, 1)


class GatedStep:
    """Base of the steps of GRU and RNN: inputs, weights, and the rules on stacked parts (2, masks, N, features).

    Args:
        x: the inputs of all steps, (time, N, features).
        constants: the shares of the parts in the constants, as `constant_shares` gives them.
        weights: of the layer in this direction.
    """

    def __init__(self, x: Decomposed, constants: Tensor, weights: Weights) -> None:
        projected: Decomposed = functional.linear(x, weights.inputs, weights.input_bias)  # type: ignore[assignment]
        self.inputs = projected.parts.unbind(2)
        self.hidden, self.like = weights.hidden, x
        self.share = constants.squeeze(2)
        self.bias = None if weights.hidden_bias is None else self.constant(weights.hidden_bias)
        self.symmetric = x.context.rules.activation == "symmetric"
        self.half_signs = factors(x.parts, 0.5, -0.5)

    @staticmethod
    def constant_shares(x: Decomposed) -> Tensor:
        """The shares of the parts in the constants of all steps, (2, masks, 1, N or 1, 1)."""
        share = x.share.view(-1, 1, 1) if shares.is_uniform(x.share) else shares.without_dim(x.share, -1).mean(1)
        return torch.stack([share, 1 - share]).unsqueeze(2)

    def run(self, states: list[Tensor], alive: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """The parts of all outputs, (2, masks, time, N, hidden), and of the last state.

        Args:
            states: the parts of the first state, (2, masks, N, hidden).
            alive: (2, masks, time, N, 1), where a part may differ from 0; None where all may.
        """
        (hidden,), outputs = states, [states[0]] * len(self.inputs)
        factor = None if alive is None else alive.to(hidden.dtype).unbind(2)
        with torch.inference_mode(not torch.is_grad_enabled()):  # half a microsecond less for each operation
            for t in range(len(outputs)):
                hidden = self(t, hidden)
                outputs[t] = hidden = hidden if factor is None else hidden * factor[t]
        return torch.stack(outputs, 2), [hidden.clone()]

    def __call__(self, t: int, hidden: Tensor) -> Tensor:
        """The state after step t."""
        raise NotImplementedError

    def constant(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """A constant, and the size of the parts below which the undecided share of it counts."""
        value = value.to(self.like.dtype)
        return value, threshold(self.like, value)

    def plus(self, parts: Tensor, constant: tuple[Tensor, Tensor]) -> Tensor:
        """The parts with a constant shared between them: the formula of `constants`."""
        value, threshold = constant
        sizes = parts.abs()
        n = sizes[0] + sizes[1]
        d = torch.maximum(n, threshold)
        return torch.addcmul(parts, torch.addcmul(sizes, self.share, d - n), value / d)

    def from_hidden(self, hidden: Tensor) -> Tensor:
        """The contribution of the state to the gates."""
        result = functional.linear(hidden, self.hidden)
        return result if self.bias is None else self.plus(result, self.bias)

    def split(self, parts: Tensor, function: Callable[[Tensor], Tensor], at_zero: float = 0) -> tuple[Tensor, Tensor]:
        """The parts of f(r + s) - f(0), and f(r + s) itself."""
        of_r, of_s, of_sum = function(torch.cat([parts, (parts[0] + parts[1]).unsqueeze(0)])).unbind(0)
        if self.symmetric:
            return torch.addcmul(0.5 * of_sum - 0.5 * at_zero, self.half_signs, of_r - of_s), of_sum
        first = of_r - at_zero
        return torch.stack([first, of_sum - at_zero - first]), of_sum


class GRUStep(GatedStep):
    """One step of a GRU."""

    def __init__(self, x: Decomposed, constants: Tensor, weights: Weights) -> None:
        super().__init__(x, constants, weights)
        self.size = weights.hidden.shape[0] // 3
        self.of_zero = self.constant(torch.tensor(0.5, dtype=x.dtype, device=x.share.device))

    def __call__(self, t: int, hidden: Tensor) -> Tensor:
        """The state after step t."""
        size, inputs, states = self.size, self.inputs[t], self.from_hidden(hidden)
        gates, of_sum = self.split(inputs[..., : 2 * size] + states[..., : 2 * size], torch.sigmoid, 0.5)
        reset, update = self.plus(gates, self.of_zero).split(size, -1)
        reset_sum, update_sum = of_sum.split(size, -1)
        states = states[..., 2 * size :]
        product = torch.addcmul(reset * (states[0] + states[1]), states, reset_sum)
        new, _ = self.split(torch.add(inputs[..., 2 * size :], product, alpha=0.5), torch.tanh)
        change = hidden - new
        product = torch.addcmul(update * (change[0] + change[1]), change, update_sum)
        return torch.add(new, product, alpha=0.5)


class RNNStep(GatedStep):
    """One step of a plain recurrent net, whose function is tanh or relu."""

    function: Callable[[Tensor], Tensor]

    def __call__(self, t: int, hidden: Tensor) -> Tensor:
        """The state after step t."""
        return self.split(self.inputs[t] + self.from_hidden(hidden), self.function)[0]


class TanhStep(RNNStep):
    """With tanh."""

    function = staticmethod(torch.tanh)


class ReLUStep(RNNStep):
    """With ReLU."""

    function = staticmethod(torch.relu)

"""The LSTM split of Murdoch et al. (2018, arXiv:1801.05453, section 3.2).

The pre-activation of a gate is r + s + b. A function f of it is split in three,

    F_r = ((f(r + b) - f(b)) + (f(r + s + b) - f(s + b))) / 2,   F_s likewise,   F_b = f(b),

so that the input to the cell, i g, and what the cell keeps, f c, are sums of products of such terms. A product of a
relevant and an irrelevant term is irrelevant in the published rules, and goes in halves to both in the symmetric ones.
The constant i_b g_b of a step is relevant as far as the input of that step is (or as `Context.step_masks` says). The
output gate is not split.

All masks share the totals r + s, which torch's own LSTM computes for all steps at once. What is left is a recurrence of
the differences d = r - s. With D the difference of f(r + b) and f(s + b), F_r - F_s = D, and by the symmetric rules

    d_c' = constant + d_c (f + f_b) / 2 + D_i (g + g_b) / 2 + D_g (i + i_b) / 2 + D_f c / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.core.errors import InvalidInputError
from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.rules.gated import factors
from xaikit.torch_ops import calling_module
from xaikit.torch_ops.recurrent import Weights

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Totals:
    """Values of the model itself at all steps, (time, N, ...), which all masks share.

    Attributes:
        outputs: the hidden states.
        before: the pre-activations of the gates i, f, g, o, times `scale`.
        gates: the gates.
        cells: the cell states, the first one included: (time + 1, N, ...).
    """

    outputs: Tensor
    before: Tensor
    gates: tuple[Tensor, ...]
    cells: Tensor

    @classmethod
    def of(cls, x: Tensor, states: Pair, weights: Weights, scale: Tensor, bias: Tensor) -> Totals:
        """The totals of one layer and direction, from the first step of x to the last."""
        hidden, cell = states
        outputs, _ = model_run("lstm", x, states, weights)
        old = torch.cat([hidden[None], outputs[:-1]])
        learnt = torch.cat([weights.inputs, weights.hidden], 1) * scale[:, None]
        before = functional.linear(torch.cat([x, old], -1), learnt, scale * bias)
        i, f, g, o = before.sigmoid().chunk(4, -1)
        g = 2 * g - 1
        cells = [cell]
        for kept, added in zip(f.unbind(0), (i * g).unbind(0), strict=True):
            cells.append(torch.addcmul(added, kept, cells[-1]))
        return cls(outputs, before, (i, f, g, o), torch.stack(cells))


class LSTM:
    """One layer and direction of an LSTM, which takes what a `gated.GatedStep` takes."""

    def __init__(self, x: Decomposed, constants: Tensor, weights: Weights) -> None:
        self.x, self.constants, self.weights = x, constants, weights
        bias = torch.zeros_like(weights.inputs[:, 0]) if weights.input_bias is None else weights.input_bias
        self.bias = bias if weights.hidden_bias is None else bias + weights.hidden_bias

    @staticmethod
    def constant_shares(x: Decomposed) -> Tensor:
        """The shares of the parts in the constants of each step, (2, masks, time, N or 1, 1)."""
        relevant = relevant_constants(x)
        return torch.stack([relevant, 1 - relevant])

    def run(self, states: list[Tensor], alive: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """As `gated.GatedStep.run`, with two states: the hidden and the cell state."""
        w = self.weights
        # tanh(x) is 2 sigmoid(2 x) - 1, and torch's sigmoid is the faster: one function for all gates
        scale = torch.tensor([1.0, 1, 2, 1], dtype=self.bias.dtype, device=self.bias.device)
        scale = scale.repeat_interleave(len(self.bias) // 4)
        totals = Totals.of(self.x.total, (states[0].sum(0)[0], states[1].sum(0)[0]), w, scale, self.bias)
        self._prepare(totals, scale[: 3 * len(scale) // 4])
        hidden, cell = (state[0] - state[1] for state in states)
        outputs = [hidden] * len(self.x)
        forced = self._forced(totals, alive)
        with torch.inference_mode(not torch.is_grad_enabled()):  # half a microsecond less for each operation
            for t in range(len(self.x)):
                hidden, cell = self._step(t, hidden, cell, forced.get(t))
                outputs[t] = hidden
        output = _parts(totals.outputs, torch.stack(outputs, 1), alive)
        last = None if alive is None else alive[:, :, -1]
        return output, [output[:, :, -1].clone(), _parts(totals.cells[-1], cell, last)]

    @staticmethod
    def _forced(totals: Totals, alive: Tensor | None) -> dict[int, Pair]:
        """For the steps at which a part is exactly 0: where both parts live, and the difference where one does."""
        if alive is None:
            return {}
        both, sign = alive.all(0), alive[0].to(totals.cells.dtype) - alive[1].to(totals.cells.dtype)
        times = (~both).any(0).flatten(1).any(1).nonzero().flatten().tolist()
        return {t: (both[:, t], sign[:, t] * totals.cells[t + 1]) for t in times}

    def _prepare(self, totals: Totals, scale: Tensor) -> None:
        """The values of the totals and the inputs that the steps need, one tensor for each step."""
        (i, f, g, o), w, size = totals.gates, self.weights, len(scale) // 3
        of_bias = self.bias.view(4, size)
        b_i, b_f, b_g = of_bias[0].sigmoid(), of_bias[1].sigmoid(), of_bias[2].tanh()
        half, width = 0.5 * scale, 3 * size
        middle = torch.add(half * self.bias[:width], totals.before[..., :width], alpha=0.5)
        inputs = functional.linear(self.x.relevant - self.x.irrelevant, w.inputs[:width] * half[:, None])
        constant = (self.constants[0] - self.constants[1]) * (b_i * b_g)
        self.to_hidden, self.middle = (w.hidden[:width] * half[:, None]).T, middle.unbind(0)
        self.inputs = inputs.transpose(0, 1).flatten(1, 2).unbind(0)
        self.signs = factors(i, 1, -1)
        old_cells, new_cells = totals.cells[:-1], totals.cells[1:]
        self.cells, self.output = new_cells.unbind(0), (2 * o).unbind(0)
        if self.x.context.rules.activation == "symmetric":
            kept, weights = torch.lerp(f, b_f, 0.5), (torch.lerp(g, b_g, 0.5), 0.5 * old_cells, i + b_i)
            self.of_step = [constant.transpose(0, 1).unbind(0), kept.unbind(0), torch.cat(weights, -1).unbind(0)]
            self.new_cell = self._symmetric
            return
        parts = torch.cat([0.5 * (i - b_i), 0.5 * (f - b_f), 0.5 * (g - b_g)], -1)
        constant = constant + b_i * b_g - new_cells
        self.of_step = [constant.transpose(0, 1).unbind(0), parts.unbind(0), (0.5 * old_cells).unbind(0)]
        self.half, self.of_bias, self.new_cell = half, (b_i, b_f, b_g), self._relevant_first

    def _step(self, t: int, hidden: Tensor, cell: Tensor, forced: Pair | None) -> Pair:
        """The differences of hidden and cell state after step t."""
        shift = torch.addmm(self.inputs[t], hidden.reshape(-1, hidden.shape[-1]), self.to_hidden)
        shift = shift.view(*hidden.shape[:2], -1)
        of_r, of_s = torch.addcmul(self.middle[t], self.signs, shift).sigmoid_().unbind(0)
        cell = self.new_cell(t, of_r - of_s, cell)
        cell = cell if forced is None else torch.where(forced[0], cell, forced[1])
        of_r, of_s = torch.addcmul(self.cells[t], self.signs, cell).sigmoid_().unbind(0)  # half the tanh of half of it
        hidden = (of_r - of_s) * self.output[t]
        return hidden if self.weights.projection is None else functional.linear(hidden, self.weights.projection), cell

    def _symmetric(self, t: int, gained: Tensor, cell: Tensor) -> Tensor:
        """The difference of the cell state, given D of the gates i, f and (halved) g."""
        constant, kept, weights = (values[t] for values in self.of_step)
        added = (gained * weights).view(*gained.shape[:2], 3, -1).sum(2)
        return torch.addcmul(constant, cell, kept).add_(added)

    def _relevant_first(self, t: int, gained: Tensor, cell: Tensor) -> Tensor:
        """The same by the published rules: twice the relevant part less the total."""
        constant, parts, half_cell = (values[t] for values in self.of_step)
        i, f, g = torch.addcmul(parts, gained, self.half).chunk(3, -1)
        b_i, b_f, b_g = self.of_bias
        return 2 * (i * (g + b_g) + b_i * g + (f + b_f) * torch.add(half_cell, cell, alpha=0.5)) + constant


def model_run(name: str, x: Tensor, states: Sequence[Tensor], weights: Weights) -> tuple[Tensor, list[Tensor]]:
    """The outputs of one layer and direction, (time, N, hidden), and its last states, as the model computes them."""
    w = weights
    learnt = [p for p in (w.inputs, w.hidden, w.input_bias, w.hidden_bias, w.projection) if p is not None]
    first = [state[None] for state in states]
    settings = (learnt, w.input_bias is not None, 1, 0.0, torch.is_grad_enabled(), False, False)
    outputs, *last = getattr(torch, name)(x, first if name == "lstm" else first[0], *settings)
    return outputs.to(x.dtype), [state[0].to(x.dtype) for state in last]


def _parts(total: Tensor, difference: Tensor, alive: Tensor | None) -> Tensor:
    """The parts of a total with a given difference; where one is exactly 0 the other is the total."""
    parts = torch.stack([total + difference, total - difference])
    parts = parts.mul_(0.5) if not parts.requires_grad else 0.5 * parts
    if alive is None:
        return parts
    return torch.where(alive, torch.where(alive.flip(0), parts, total), 0)


def relevant_constants(x: Decomposed) -> Tensor:
    """How far each step lies inside the relevant span: |r| / (|r| + |s|) of its input, (masks, time, N or 1, 1)."""
    steps = x.context.step_masks
    if steps is not None:
        if steps.shape[2] != len(x):
            raise InvalidInputError(f"step_masks name {steps.shape[2]} steps, but {calling_module()} takes {len(x)}")
        return steps.transpose(1, 2).unsqueeze(-1).to(x.parts)
    size = x.parts.abs().sum(-1, keepdim=True)
    total = size.sum(0)
    tiny = torch.finfo(size.dtype).tiny
    return torch.where(
        total > 0, size[0] / total.clamp_min(tiny), shares.aligned(shares.without_dim(x.share, -1), x.dim())
    )

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


@dataclass(frozen=True)
class Totals:
    """Values of the model itself at all steps, (time, N, ...), which all masks share.

    Attributes:
        outputs: the hidden states.
        before: the pre-activations of the gates i, f, g, o.
        gates: the gates.
        cells: the cell states.
        old_cells: those of the step before.
    """

    outputs: Tensor
    before: Tensor
    gates: tuple[Tensor, ...]
    cells: Tensor
    old_cells: Tensor

    @classmethod
    def of(cls, x: Tensor, states: list[Tensor], weights: Weights, bias: Tensor, *, reverse: bool) -> Totals:
        """The totals of one layer and direction; sequences run from the last step to the first where `reverse`."""
        w, (hidden, cell) = weights, (state[0, 0] + state[1, 0] for state in states)
        learnt = [p for p in (w.inputs, w.hidden, w.input_bias, w.hidden_bias, w.projection) if p is not None]
        settings = (w.input_bias is not None, 1, 0.0, torch.is_grad_enabled(), False, False)
        x = x.flip(0) if reverse else x
        outputs = torch.lstm(x, (hidden[None], cell[None]), learnt, *settings)[0].to(x.dtype)
        old = torch.cat([hidden[None], outputs[:-1]])
        before = functional.linear(torch.cat([x, old], -1), torch.cat([w.inputs, w.hidden], 1), bias)
        i, f, g, o = before.chunk(4, -1)
        gates = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        cells = [cell]
        for kept, added in zip(gates[1].unbind(0), (gates[0] * gates[2]).unbind(0), strict=True):
            cells.append(torch.addcmul(added, kept, cells[-1]))
        stacked = torch.stack(cells)
        values = (outputs, before, *gates, stacked[1:], stacked[:-1])
        outputs, before, i, f, g, o, new, old = (v.flip(0) for v in values) if reverse else values
        return cls(outputs, before, (i, f, g, o), new, old)


class LSTM:
    """One layer and direction of an LSTM, which takes what a `gated.GatedStep` takes."""

    def __init__(self, x: Decomposed, weights: Weights) -> None:
        self.x, self.weights = x, weights
        bias = torch.zeros_like(weights.inputs[:, 0]) if weights.input_bias is None else weights.input_bias
        self.bias = bias if weights.hidden_bias is None else bias + weights.hidden_bias
        relevant = constant_shares(x)
        self.constants = torch.stack([relevant, 1 - relevant])
        self.constant_counts = self.constants != 0

    def run(self, states: list[Tensor], alive: Tensor | None, *, reverse: bool) -> tuple[Tensor, list[Tensor]]:
        """As `gated.GatedStep.run`, with two states: the hidden and the cell state."""
        totals = Totals.of(self.x.total, states, self.weights, self.bias, reverse=reverse)
        self._prepare(totals)
        steps = range(len(self.x) - 1, -1, -1) if reverse else range(len(self.x))
        hidden, cell = (state[0] - state[1] for state in states)
        outputs = [hidden] * len(steps)
        forced = self._forced(totals, alive)
        with torch.inference_mode(not torch.is_grad_enabled()):  # half a microsecond less for each operation
            for t in steps:
                hidden, cell = self._step(t, hidden, cell, forced.get(t))
                outputs[t] = hidden
        output = _parts(totals.outputs, torch.stack(outputs, 1), alive)
        last = None if alive is None else alive[:, :, steps[-1]]
        return output, [output[:, :, steps[-1]].clone(), _parts(totals.cells[steps[-1]], cell, last)]

    @staticmethod
    def _forced(totals: Totals, alive: Tensor | None) -> dict[int, tuple[Tensor, Tensor]]:
        """For the steps at which a part is exactly 0: where both parts live, and the difference where one does."""
        if alive is None:
            return {}
        both, sign = alive.all(0), alive[0].to(totals.cells.dtype) - alive[1].to(totals.cells.dtype)
        times = (~both).any(0).flatten(1).any(1).nonzero().flatten().tolist()
        return {t: (both[:, t], sign[:, t] * totals.cells[t]) for t in times}

    def _prepare(self, totals: Totals) -> None:
        """The values of the totals and the inputs that the steps need, one tensor for each step."""
        (i, f, g, o), w = totals.gates, self.weights
        size = i.shape[-1]
        of_bias = self.bias.view(4, size)
        b_i, b_f, b_g = of_bias[0].sigmoid(), of_bias[1].sigmoid(), of_bias[2].tanh()
        # tanh(x) is 2 sigmoid(2 x) - 1: one function for the gates i, f and g
        half = torch.tensor([0.5, 0.5, 1.0], dtype=i.dtype, device=i.device).repeat_interleave(size)
        middle = torch.addcmul(half * self.bias[: 3 * size], half, totals.before[..., : 3 * size])
        inputs = functional.linear(self.x.relevant - self.x.irrelevant, w.inputs[: 3 * size] * half[:, None])
        constant = (self.constants[0] - self.constants[1]) * (b_i * b_g)
        self.to_hidden, self.middle = (w.hidden[: 3 * size] * half[:, None]).T, middle.unbind(0)
        self.inputs = inputs.transpose(0, 1).flatten(1, 2).unbind(0)
        self.signs, self.half_signs = factors(i, 1, -1), factors(i, 0.5, -0.5)
        self.half_cells, self.output = (0.5 * totals.cells).unbind(0), o.unbind(0)
        if self.x.context.rules.activation == "symmetric":
            kept, weights = torch.lerp(f, b_f, 0.5), (torch.lerp(g, b_g, 0.5), 0.5 * totals.old_cells, i + b_i)
            self.of_step = [constant.transpose(0, 1).unbind(0), kept.unbind(0), torch.cat(weights, -1).unbind(0)]
            self.new_cell = self._symmetric
            return
        parts = torch.cat([0.5 * (i - b_i), 0.5 * (f - b_f), 0.5 * (g - b_g)], -1)
        constant = constant + b_i * b_g - totals.cells
        self.of_step = [constant.transpose(0, 1).unbind(0), parts.unbind(0), (0.5 * totals.old_cells).unbind(0)]
        self.half, self.of_bias, self.new_cell = half, (b_i, b_f, b_g), self._relevant_first

    def _step(
        self, t: int, hidden: Tensor, cell: Tensor, forced: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """The differences of hidden and cell state after step t."""
        masks, n = hidden.shape[:2]
        shift = torch.addmm(self.inputs[t], hidden.view(masks * n, -1), self.to_hidden).view(masks, n, -1)
        of_r, of_s = torch.addcmul(self.middle[t], self.signs, shift).sigmoid_().unbind(0)
        cell = self.new_cell(t, of_r - of_s, cell)
        cell = cell if forced is None else torch.where(forced[0], cell, forced[1])
        of_r, of_s = torch.addcmul(self.half_cells[t], self.half_signs, cell).tanh_().unbind(0)
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


def _parts(total: Tensor, difference: Tensor, alive: Tensor | None) -> Tensor:
    """The parts of a total with a given difference; where one is exactly 0 the other is the total."""
    parts = 0.5 * torch.stack([total + difference, total - difference])
    if alive is None:
        return parts
    return torch.where(alive, torch.where(alive.flip(0), parts, total), 0)


def constant_shares(x: Decomposed) -> Tensor:
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

"""The LSTM split of Murdoch et al. (2018, arXiv:1801.05453, section 3.2).

The pre-activation of a gate is r + s + b. A function f of it is split in three,

    F_r = ((f(r + b) - f(b)) + (f(r + s + b) - f(s + b))) / 2,   F_s likewise,   F_b = f(b),

so that the input to the cell, i g, and what the cell keeps, f c, are sums of products of such terms. A product of a
relevant and an irrelevant term is irrelevant in the published rules, and goes in halves to both in the symmetric ones.
The constant i_b g_b of a step is relevant as far as the input of that step is (or as `Context.step_masks` says). The
output gate is not split.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.core.errors import InvalidInputError
from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.rules.gated import factors
from xaikit.torch_ops import calling_module
from xaikit.torch_ops.recurrent import Weights


class LSTMStep:
    """One step of an LSTM, on r + b, s + b and r + s + b at once.

    Args:
        x: the inputs of all steps, (time, N, features).
        weights: of the layer in this direction.
    """

    def __init__(self, x: Decomposed, weights: Weights) -> None:
        self.size = size = weights.hidden.shape[0] // 4
        # tanh(x) is 2 sigmoid(2 x) - 1: one function for all gates
        scale = torch.ones(4, size, dtype=x.dtype, device=x.share.device)
        scale[2] = 2
        scale = scale.flatten()
        bias = torch.zeros_like(weights.inputs[:, 0]) if weights.input_bias is None else weights.input_bias
        bias = scale * (bias if weights.hidden_bias is None else bias + weights.hidden_bias)
        three = torch.cat([x.parts, (x.relevant + x.irrelevant).unsqueeze(0)]).movedim(2, 0)
        self.inputs = functional.linear(three, weights.inputs * scale[:, None], bias).flatten(1, 3).unbind(0)
        self.hidden, self.projection = (weights.hidden * scale[:, None]).T, weights.projection
        self.symmetric = x.context.rules.activation == "symmetric"
        self.of_bias = scale * bias.sigmoid() - (scale - 1)
        self.half_scale, self.half_shift = 0.5 * scale, -0.5 * (scale - 1) - 0.5 * self.of_bias
        self.half_signs, self.signs = factors(x.parts, 0.5, -0.5) * scale, factors(x.parts, 1, -1, 0)
        self.halves = factors(x.parts, 0.5, 0.5, 1)
        constants = constant_shares(x)
        both = torch.stack([constants, 1 - constants])
        self.constant_counts = both != 0
        of_cell = self.of_bias[:size] * self.of_bias[2 * size : 3 * size]
        self.kept = (both.expand(-1, -1, -1, x.shape[1], -1) * of_cell).movedim(2, 0).unbind(0)

    @staticmethod
    def start(hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The state before the first step: hidden parts and their sum, cell parts, their sum."""
        return torch.cat([hidden, (hidden[0] + hidden[1]).unsqueeze(0)]), cell, cell[0] + cell[1]

    def __call__(
        self, t: int, alive: Tensor | None, hidden: Tensor, cell: Tensor, cell_sum: Tensor
    ) -> tuple[Tensor, ...]:
        """The state after step t; what is not alive is exactly 0."""
        before = torch.addmm(self.inputs[t], hidden.flatten(0, 2), self.hidden)
        of_r, of_s, of_all = before.sigmoid().unflatten(0, hidden.shape[:3]).unbind(0)
        half = torch.addcmul(self.half_shift, of_all, self.half_scale)  # half of F_r + F_s
        terms = torch.addcmul(half, self.half_signs, of_r - of_s)
        cell = self._new_cell(t, terms, half, cell, cell_sum)
        cell = cell if alive is None else cell * alive[:2]
        cell_sum = cell[0] + cell[1]
        of_r, of_s, of_sum = torch.cat([cell, cell_sum.unsqueeze(0)]).tanh().unbind(0)
        hidden = torch.addcmul(of_sum, self.signs, of_r - of_s) * (of_all[..., 3 * self.size :] * self.halves)
        hidden = hidden if alive is None else hidden * alive
        hidden = hidden if self.projection is None else functional.linear(hidden, self.projection)
        return hidden, cell, cell_sum

    def _new_cell(self, t: int, terms: Tensor, half: Tensor, cell: Tensor, cell_sum: Tensor) -> Tensor:
        """The parts i g + f c + constant, given the terms F_r and F_s of each gate and half of F_r + F_s."""
        i, f, g, _ = terms.unflatten(-1, (4, -1)).unbind(-2)
        if self.symmetric:
            mean_i, mean_f, mean_g, _ = (half + self.of_bias).unflatten(-1, (4, -1)).unbind(-2)
            new = torch.addcmul(self.kept[t], cell, mean_f)
            new = torch.addcmul(new, i, mean_g)
            new = torch.addcmul(new, g, mean_i)
            return torch.addcmul(new, f, cell_sum, value=0.5)
        i_b, f_b, g_b, _ = self.of_bias.split(self.size)
        added = torch.stack([i[0] * (g[0] + g_b) + i_b * g[0], i[1] * (g[0] + g[1] + g_b) + (i[0] + i_b) * g[1]])
        carried = torch.stack([(f[0] + f_b) * cell[0], (f[0] + f[1] + f_b) * cell[1] + f[1] * cell[0]])
        return added + carried + self.kept[t]


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

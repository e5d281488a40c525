"""The LSTM split of Murdoch et al. (2018, arXiv:1801.05453, section 3.2).

The pre-activation of a gate is r + s + b. A function f of it is split in three,

    F_r = ((f(r + b) - f(b)) + (f(r + s + b) - f(s + b))) / 2,   F_s likewise,   F_b = f(b),

so that the input to the cell, i g, and what the cell keeps, f c, are sums of products of such terms. A product of a
relevant and an irrelevant term is irrelevant in the published rules, and goes in halves to both in the symmetric ones.
The constant i_b g_b of a step is relevant as far as the input of that step is (or as `Context.step_masks` says). The
output gate is not split.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.core.errors import InvalidInputError
from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.location import calling_module
from xaikit.explainers.cd.ruleset import RuleSet


def lstm_steps(
    x: Decomposed, state: tuple[Decomposed, ...], weights: tuple[Any, ...], reverse: bool
) -> tuple[Decomposed, Decomposed, Decomposed]:
    """Outputs (time, batch, hidden), last hidden and last cell state of one layer in one direction."""
    w_ih, w_hh, b_ih, b_hh, projection = weights
    rules = x.context.rules
    bias = torch.zeros(w_ih.shape[0], dtype=w_ih.dtype, device=w_ih.device) if b_ih is None else b_ih + b_hh
    gates = functional.linear(x.parts, w_ih).unbind(2)
    constants = constant_shares(x).unbind(1)
    hidden, cell = (value.parts for value in state)
    of_bias = _gates(bias)
    outputs = []
    for t in range(len(gates) - 1, -1, -1) if reverse else range(len(gates)):
        parts = gates[t] + functional.linear(hidden, w_hh)
        hidden, cell = _step(parts, cell, bias, of_bias, constants[t], rules)
        hidden = hidden if projection is None else functional.linear(hidden, projection)
        outputs.append(hidden)
    share = x.share if shares.is_uniform(x.share) else shares.without_dim(x.share, -1)
    last = share if shares.is_uniform(share) else share.mean(1)
    stacked = torch.stack(outputs[::-1] if reverse else outputs, 2)
    return x.like(stacked, share), x.like(hidden, last), x.like(cell, last)


def _gates(pre_activation: Tensor) -> tuple[Tensor, Tensor]:
    """Input, forget and output gate in one tensor, and the cell gate, of pre-activations in the order i, f, g, o."""
    size = pre_activation.shape[-1] // 4
    inner, cell, outer = pre_activation.split([2 * size, size, size], -1)
    return torch.sigmoid(torch.cat([inner, outer], -1)), torch.tanh(cell)


def _step(
    parts: Tensor, cell: Tensor, bias: Tensor, of_bias: tuple[Tensor, Tensor], constant: Tensor, rules: RuleSet
) -> tuple[Tensor, Tensor]:
    """One step on the pre-activations of the gates, (2, masks, batch, 4 hidden), and the parts of the cell state."""
    size = cell.shape[-1]
    biased = parts + bias
    sigmoids, tanhs = _gates(torch.cat([biased, (biased[0] + parts[1]).unsqueeze(0)]))
    keep = parts != 0  # f(b) of a vector kernel and of its scalar tail differ in the last bit
    three = _three_way(sigmoids[..., : 2 * size], of_bias[0][: 2 * size]) * keep[..., : 2 * size]
    i, f = three.split(size, -1)
    g = _three_way(tanhs, of_bias[1]) * keep[..., 2 * size : 3 * size]
    i_b, f_b, g_b = of_bias[0][:size], of_bias[0][size : 2 * size], of_bias[1]
    kept = i_b * g_b
    if rules.activation == "symmetric":
        added = i * (0.5 * (g[0] + g[1]) + g_b) + g * (0.5 * (i[0] + i[1]) + i_b)
        carried = cell * (0.5 * (f[0] + f[1]) + f_b) + f * (0.5 * (cell[0] + cell[1]))
    else:
        added = torch.stack([i[0] * (g[0] + g_b) + i_b * g[0], i[1] * (g[0] + g[1] + g_b) + (i[0] + i_b) * g[1]])
        carried = torch.stack([(f[0] + f_b) * cell[0], (f[0] + f[1] + f_b) * cell[1] + f[1] * cell[0]])
    cell = added + carried + kept * torch.stack([constant, 1 - constant])
    of_parts, of_sum = torch.tanh(cell), torch.tanh(cell[0] + cell[1])
    two = 0.5 * (of_sum + of_parts - of_parts.flip(0)) * (cell != 0)
    return sigmoids[2, ..., 2 * size :] * two, cell


def _three_way(values: Tensor, of_bias: Tensor) -> Tensor:
    """The relevant and the irrelevant term of f, from f(r + b), f(s + b) and f(r + s + b)."""
    either, both = values[:2], values[2]
    return 0.5 * ((either - of_bias) + (both - either.flip(0)))


def constant_shares(x: Decomposed) -> Tensor:
    """How far each step lies inside the relevant span: |r| / (|r| + |s|) of its input, (masks, time, batch or 1, 1)."""
    steps = x.context.step_masks
    if steps is not None:
        if steps.shape[2] != len(x):
            raise InvalidInputError(f"step_masks name {steps.shape[2]} steps, but {calling_module()} takes {len(x)}")
        return steps.transpose(1, 2).unsqueeze(-1).to(x.parts)
    size = x.parts.abs().sum(-1, keepdim=True)
    total = size.sum(0)
    tiny = torch.finfo(size.dtype).tiny
    return torch.where(total > 0, size[0] / total.clamp_min(tiny), shares.aligned(x.share, x.dim()))

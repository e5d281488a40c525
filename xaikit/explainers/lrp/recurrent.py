"""Recurrent nets written out step by step: their gates are products, which the fused kernels hide.

A gate takes no relevance, all goes to the signal that it lets through (Arras et al. 2017, arXiv:1706.07206).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xaikit.explainers.lrp.operations import rule

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace

State = tuple[Tensor, ...]
Weights = Sequence[Any]  # tensors, None for what the net has not
Cell = Callable[[Tensor, State, Weights], State]


def lstm_step(x: Tensor, state: State, weights: Weights) -> State:
    """One step of an LSTM; x is the projected input, weights are (hidden, its bias, projection of the output)."""
    hidden, cell = state
    recurrent, bias, projection = weights
    i, f, g, o = (x + F.linear(hidden, recurrent, bias)).chunk(4, 1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    return hidden if projection is None else F.linear(hidden, projection), cell


def gru_step(x: Tensor, state: State, weights: Weights) -> State:
    """One step of a GRU."""
    (hidden,) = state
    recurrent, bias, _ = weights
    xr, xz, xn = x.chunk(3, 1)
    hr, hz, hn = F.linear(hidden, recurrent, bias).chunk(3, 1)
    reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    return ((1 - update) * torch.tanh(xn + reset * hn) + update * hidden,)


def rnn_step(activation: Callable[[Tensor], Tensor]) -> Cell:
    """One step of a plain recurrent net."""

    def step(x: Tensor, state: State, weights: Weights) -> State:
        recurrent, bias, _ = weights
        return (activation(x + F.linear(state[0], recurrent, bias)),)

    return step


CELLS: dict[str, Cell] = {
    "lstm": lstm_step,
    "gru": gru_step,
    "rnn_tanh": rnn_step(torch.tanh),
    "rnn_relu": rnn_step(torch.relu),
}


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(trace: Trace, func: Any, x: Tensor, state: Any, w: Tensor, u: Tensor, *biases: Tensor | None) -> Any:
    """A single step, as the Cell modules call it."""
    b, c = (*biases, None, None)[:2]
    states = tuple(state) if isinstance(state, (tuple, list)) else (state,)
    with trace:
        result = CELLS[func.__name__.removesuffix("_cell")](F.linear(x, w, b), states, (u, c, None))
    return result if len(states) == 2 else result[0]


@rule(*CELLS)
def recurrent(trace: Trace, func: Any, *args: Any) -> tuple[Tensor, ...]:
    """All layers and directions, on a padded batch or a packed one; dropout is off while a model is explained."""
    packed = isinstance(args[1], Tensor) and not args[1].is_floating_point()
    if packed:
        data, sizes, state, parameters, biased, layers, _, _, both = args
        batch_first = False
    else:
        data, state, parameters, biased, layers, _, _, both, batch_first = args
    states = list(state) if isinstance(state, (tuple, list)) else [state]
    step = CELLS[func.__name__]
    with trace:
        data = data.transpose(0, 1) if batch_first else data
        counts = sizes.tolist() if packed else [data.shape[1]] * data.shape[0]
        flat = data if packed else data.flatten(0, 1)
        directions = 2 if both else 1
        per_cell = len(parameters) // (layers * directions)
        final: list[State] = []
        for layer in range(layers):
            outputs = []
            for direction in range(directions):
                index = layer * directions + direction
                own = parameters[index * per_cell : (index + 1) * per_cell]
                start = tuple(s[index] for s in states)
                output, end = _run(step, flat, counts, start, _named(own, biased), reverse=direction == 1)
                outputs.append(output)
                final.append(end)
            flat = torch.cat(outputs, 1) if both else outputs[0]
        output = flat if packed else flat.unflatten(0, (len(counts), -1))
        ends = tuple(torch.stack(parts) for parts in zip(*final, strict=True))
        return (output.transpose(0, 1) if batch_first else output, *ends)


def _named(own: Sequence[Tensor], biased: bool) -> tuple[Tensor, Tensor | None, Weights]:
    """Input weight, its bias, and the step's weights, out of PyTorch's flat list."""
    w, u, *rest = own
    b, c = rest[:2] if biased else (None, None)
    projection = rest[2 if biased else 0 :]
    return w, b, (u, c, projection[0] if projection else None)


def _run(
    step: Cell, flat: Tensor, counts: list[int], state: State, named: tuple[Any, Any, Weights], *, reverse: bool
) -> tuple[Tensor, State]:
    """One direction over time; counts says how many sequences are still running at each step."""
    w, b, weights = named
    inputs = F.linear(flat, w, b).split(counts)
    outputs: list[Any] = [None] * len(inputs)
    for t in range(len(inputs))[:: -1 if reverse else 1]:
        n = counts[t]
        running = step(inputs[t], tuple(s[:n] for s in state), weights)
        outputs[t] = running[0]
        state = tuple(r if n == len(s) else torch.cat([r, s[n:]]) for r, s in zip(running, state, strict=True))
    return torch.cat(outputs), state

"""Recurrent nets written out step by step: their gates are products, which the fused kernels hide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xaikit.torch_ops.names import operation_name

HiddenState = tuple[Tensor, ...]


@dataclass(frozen=True)
class Weights:
    """The parameters of one layer and direction of a recurrent net; None for those that it does not have.

    Attributes:
        inputs: (gates * hidden, features), with its bias `input_bias`.
        hidden: (gates * hidden, hidden), with its bias `hidden_bias`.
        projection: (projected, hidden), of an LSTM whose output is projected.
    """

    inputs: Tensor
    hidden: Tensor
    input_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None


# One step: the projected input x, (N, gates * hidden), and the state give the next state.
CellFunction = Callable[[Tensor, HiddenState, Weights], HiddenState]


def lstm_step(x: Tensor, state: HiddenState, weights: Weights) -> HiddenState:
    """One step of an LSTM on the projected input x, (N, 4 hidden)."""
    hidden, cell = state
    i, f, g, o = (x + F.linear(hidden, weights.hidden, weights.hidden_bias)).chunk(4, 1)
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    hidden = torch.sigmoid(o) * torch.tanh(cell)
    return hidden if weights.projection is None else F.linear(hidden, weights.projection), cell


def gru_step(x: Tensor, state: HiddenState, weights: Weights) -> HiddenState:
    """One step of a GRU on the projected input x, (N, 3 hidden)."""
    xr, xz, xn = x.chunk(3, 1)
    hr, hz, hn = F.linear(state[0], weights.hidden, weights.hidden_bias).chunk(3, 1)
    reset, update = torch.sigmoid(xr + hr), torch.sigmoid(xz + hz)
    return ((1 - update) * torch.tanh(xn + reset * hn) + update * state[0],)


def rnn_step(activation: Callable[[Tensor], Tensor], x: Tensor, state: HiddenState, weights: Weights) -> HiddenState:
    """One step of a plain recurrent net with this activation."""
    return (activation(x + F.linear(state[0], weights.hidden, weights.hidden_bias)),)


CELLS: dict[str, CellFunction] = {
    "lstm": lstm_step,
    "gru": gru_step,
    "rnn_tanh": partial(rnn_step, torch.tanh),
    "rnn_relu": partial(rnn_step, torch.relu),
}


def cell(function: Any, x: Tensor, state: Any, *parameters: Any) -> Any:
    """A single step, as the Cell modules call it, on x (N, features) and a state (N, hidden), two for an LSTM."""
    weights, step = Weights(*parameters), CELLS[operation_name(function).removesuffix("_cell")]
    states = tuple(state) if isinstance(state, (tuple, list)) else (state,)
    result = step(F.linear(x, weights.inputs, weights.input_bias), states, weights)
    return result if len(states) == 2 else result[0]


@dataclass(frozen=True)
class Sequences:
    """Sequences of a batch, step by step, longest first.

    Attributes:
        steps: (all steps of all sequences, features): the first step of each, then the second of each that has one.
        counts: how many sequences have each step.
    """

    steps: Tensor
    counts: list[int]

    def lengths(self) -> list[tuple[int, int, int]]:
        """Runs of sequences of one length: (first, behind the last, length)."""
        lengths = [sum(count > i for count in self.counts) for i in range(self.counts[0])]
        sizes = [(length, len(list(members))) for length, members in groupby(lengths)]
        ends = accumulate(size for _, size in sizes)
        return [(end - size, end, length) for (length, size), end in zip(sizes, ends, strict=True)]

    def backwards(self) -> Tensor:
        """Which of the steps stands at the place of each when every sequence runs from its end to its beginning."""
        starts = [0, *accumulate(self.counts)]
        lengths = [length for first, last, length in self.lengths() for _ in range(first, last)]
        rows = [starts[lengths[i] - 1 - t] + i for t, count in enumerate(self.counts) for i in range(count)]
        return torch.tensor(rows, device=self.steps.device)


# Runs one layer, forwards or backwards: the output of every step, and the state at the end of each sequence.
RunLayer = Callable[[Sequences, HiddenState, Weights, bool], tuple[Tensor, HiddenState]]


def recurrent(function: Any, *args: Any, run: RunLayer | None = None) -> tuple[Tensor, ...]:
    """All layers and directions, on a padded batch or a packed one; dropout is off while a model is explained.

    Args:
        function: torch.lstm, torch.gru, torch.rnn_tanh or torch.rnn_relu.
        args: its arguments, of either of its two forms.
        run: runs one layer in one direction, for a method that has a way of its own; None computes it step by step.

    Returns:
        The output, and the state at the end of each layer and direction (two for an LSTM).
    """
    packed = isinstance(args[1], Tensor) and not args[1].is_floating_point()
    if packed:
        data, sizes, state, parameters, biased, layers, _, _, both = args
        batch_first, sequences = False, Sequences(data, sizes.tolist())
    else:
        data, state, parameters, biased, layers, _, _, both, batch_first = args
        data = data.transpose(0, 1) if batch_first else data
        sequences = Sequences(data.flatten(0, 1), [data.shape[1]] * data.shape[0])
    states = list(state) if isinstance(state, (tuple, list)) else [state]
    directions = 2 if both else 1
    layer_run = run or partial(_run, CELLS[operation_name(function)])
    n_weights = len(parameters) // (layers * directions)  # of a layer and direction, in torch's flat list
    ends: list[HiddenState] = []
    for layer in range(layers):
        outputs = []
        for index in range(layer * directions, (layer + 1) * directions):
            group = parameters[index * n_weights : (index + 1) * n_weights]
            weights = Weights(*(group if biased else [*group[:2], None, None, *group[2:]]))
            output, end = layer_run(sequences, tuple(s[index] for s in states), weights, bool(index % directions))
            outputs.append(output)
            ends.append(end)
        sequences = Sequences(torch.cat(outputs, 1) if both else outputs[0], sequences.counts)
    output = sequences.steps if packed else sequences.steps.unflatten(0, (len(sequences.counts), -1))
    final = tuple(torch.stack(parts) for parts in zip(*ends, strict=True))
    return (output.transpose(0, 1) if batch_first else output, *final)


def _run(
    cell: CellFunction, sequences: Sequences, state: HiddenState, weights: Weights, reverse: bool
) -> tuple[Tensor, HiddenState]:
    """The output of every step of one layer in one direction, and the state at the end of each sequence."""
    order = sequences.backwards() if reverse else None
    steps = sequences.steps if order is None else sequences.steps.index_select(0, order)
    outputs = []
    projected = F.linear(steps, weights.inputs, weights.input_bias).split(sequences.counts)
    for n, x in zip(sequences.counts, projected, strict=True):
        running = cell(x, tuple(s[:n] for s in state), weights)
        outputs.append(running[0])
        state = tuple(r if n == len(s) else torch.cat([r, s[n:]]) for r, s in zip(running, state, strict=True))
    output = torch.cat(outputs)
    return output if order is None else output.index_select(0, order), state

"""Recurrent nets, unrolled in time: Murdoch's split for the LSTM, the general rules for GRU and plain cells."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.core.errors import UnsupportedOperationError
from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed, constant_like
from xaikit.explainers.cd.location import calling_module
from xaikit.explainers.cd.registry import cd_rule, named
from xaikit.explainers.cd.rules.lstm import lstm_steps

Weights = tuple[Any, Any, Any, Any, Any]
"""Input weight, hidden weight, input bias, hidden bias, projection; None for what a layer lacks."""


@cd_rule(*named("_pack_padded_sequence", "_pad_packed_sequence"))
def packed(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Packed sequences hold the steps of all samples in one dimension."""
    raise UnsupportedOperationError(
        f"contextual decomposition does not take packed sequences (`{function.__name__}` in {calling_module()}); run "
        "the recurrent net on the padded batch, and pick the last valid step of its output"
    )


@cd_rule(torch.lstm)
def lstm(function: Any, input: Any, hx: Any, *settings: Any) -> tuple[Decomposed, Decomposed, Decomposed]:
    """All layers and directions of an nn.LSTM."""
    if isinstance(hx, Tensor):
        packed(function)

    def run(x: Any, weights: Weights, index: int, reverse: bool) -> Any:
        return lstm_steps(x, tuple(_state(state, index, x) for state in hx), weights, reverse)

    output, (h, c) = _unrolled(run, input, *settings)
    return output, h, c


@cd_rule(torch.gru, torch.rnn_tanh, torch.rnn_relu)
def plain_recurrence(function: Any, input: Any, hx: Any, *settings: Any) -> Any:
    """All layers and directions of an nn.GRU or nn.RNN."""
    if not isinstance(settings[0], list | tuple):
        packed(function)
    cell = {"gru": gru_step, "rnn_tanh": tanh_step, "rnn_relu": relu_step}[function.__name__]

    def run(x: Any, weights: Weights, index: int, reverse: bool) -> Any:
        w_ih, w_hh, b_ih, b_hh, _ = weights
        hidden, outputs = _state(hx, index, x), []
        steps = functional.linear(x, w_ih, b_ih).unbind(0)
        for step in reversed(steps) if reverse else steps:
            hidden = cell(step, functional.linear(hidden, w_hh, b_hh), hidden)
            outputs.append(hidden)
        return torch.stack(outputs[::-1] if reverse else outputs), hidden

    output, (h,) = _unrolled(run, input, *settings)
    return output, h


def gru_step(from_input: Any, from_hidden: Any, hidden: Any) -> Any:
    """New state h' = n + z (h - n) with n = tanh(x_n + r h_n)."""
    reset_x, update_x, new_x = from_input.chunk(3, -1)
    reset_h, update_h, new_h = from_hidden.chunk(3, -1)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return new + torch.sigmoid(update_x + update_h) * (hidden - new)


def tanh_step(from_input: Any, from_hidden: Any, hidden: Any) -> Any:
    """New state h' = tanh(x + h)."""
    return torch.tanh(from_input + from_hidden)


def relu_step(from_input: Any, from_hidden: Any, hidden: Any) -> Any:
    """New state h' = relu(x + h)."""
    return torch.relu(from_input + from_hidden)


@cd_rule(torch.gru_cell, torch.rnn_tanh_cell, torch.rnn_relu_cell)
def cell(function: Any, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Decomposed:
    """One step of a GRU or a plain recurrent cell."""
    step = {"gru_cell": gru_step, "rnn_tanh_cell": tanh_step, "rnn_relu_cell": relu_step}[function.__name__]
    hidden = hx if isinstance(hx, Decomposed) else constant_like(hx, input)
    return step(functional.linear(input, w_ih, b_ih), functional.linear(hidden, w_hh, b_hh), hidden)


@cd_rule(torch.lstm_cell)
def lstm_cell(function: Any, input: Any, hx: Any, w_ih: Any, w_hh: Any, b_ih: Any = None, b_hh: Any = None) -> Any:
    """One step of an LSTM."""
    pair = next(value for value in (input, *hx) if isinstance(value, Decomposed))
    x, h, c = (v if isinstance(v, Decomposed) else constant_like(v, pair) for v in (input, *hx))
    first: Any = x.unsqueeze(0)
    _, h, c = lstm_steps(first, (h, c), (w_ih, w_hh, b_ih, b_hh, None), False)
    return h, c


def _state(states: Any, index: int, x: Decomposed) -> Decomposed:
    """The initial state of one layer and direction."""
    state = states[index]
    if isinstance(state, Decomposed):
        return state
    like = x if shares.is_uniform(x.share) else x.like(x.parts[:, :, 0], x.share.mean(1))
    return constant_like(state, like)


def _unrolled(  # noqa: PLR0913, PLR0917  the arguments are torch's
    run: Callable[[Any, Weights, int, bool], Any],
    x: Any,
    params: Any,
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> Any:
    """Run the layers one after the other; the final states of all of them are stacked as torch stacks them."""
    x = x.transpose(0, 1) if batch_first else x
    directions = 2 if bidirectional else 1
    per_layer = len(params) // (num_layers * directions)
    finals: list[tuple[Any, ...]] = []
    for layer in range(num_layers):
        outputs: list[Any] = []
        for direction in range(directions):
            index = layer * directions + direction
            own = list(params[index * per_layer : (index + 1) * per_layer])
            biases = own[2:4] if has_biases else [None, None]
            projection = own[-1] if per_layer % 2 else None
            output, *states = run(x, (own[0], own[1], *biases, projection), index, direction == 1)
            outputs.append(output)
            finals.append(tuple(states))
        x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
        if dropout and train and layer < num_layers - 1:
            x = functional.dropout(x, dropout, True)
    final: Any = tuple(torch.stack(column) for column in zip(*finals, strict=True))
    return (x.transpose(0, 1) if batch_first else x), final

"""Recurrent nets, step by step on plain tensors: Murdoch's split for the LSTM, the general rules for GRU and RNN.

A step is twenty to forty small operations, and their number is what it costs, so the parts stay stacked in one tensor
(2, masks, N, ...) or (3, ...) with their sum, and the rules are written out here on those.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed, with_parts
from xaikit.explainers.cd.registry import cd_rule
from xaikit.explainers.cd.rules.gated import GRUStep, ReLUStep, TanhStep
from xaikit.explainers.cd.rules.lstm import LSTM, model_run
from xaikit.torch_ops import operation_name
from xaikit.torch_ops.recurrent import Sequences, Weights, recurrent

NETS: dict[str, Any] = {"lstm": LSTM, "gru": GRUStep, "rnn_tanh": TanhStep, "rnn_relu": ReLUStep}


@cd_rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent_net(function: Any, *args: Any) -> Any:
    """All layers and directions of a recurrent net, on a padded batch or a packed one."""
    return recurrent(function, *args, run=functools.partial(_layer, operation_name(function)))


@cd_rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def cell(function: Any, input: Any, hx: Any, *parameters: Any) -> Any:
    """One step, as the Cell modules take it."""
    states = tuple(hx) if isinstance(hx, tuple | list) else (hx,)
    pair = next(value for value in (input, *states) if isinstance(value, Decomposed))
    x, *starts = (with_parts(value, pair) for value in (input, *states))
    steps = x.like(x.parts.unsqueeze(2), x.share if shares.is_uniform(x.share) else x.share.unsqueeze(1))
    name = operation_name(function).removesuffix("_cell")
    _, final = _run(name, steps, tuple(starts), Weights(*parameters), reverse=False)
    return final if len(final) == 2 else final[0]


def _layer(name: str, sequences: Sequences, state: tuple[Any, ...], weights: Weights, reverse: bool) -> Any:
    """The output of each step and the final state of each sequence; sequences of one length run together."""
    x: Any = sequences.steps
    counts = sequences.counts
    if counts[-1] == counts[0]:
        output, final = _run(name, x.unflatten(0, (len(counts), counts[0])), state, weights, reverse=reverse)
        return output.flatten(0, 1), final
    starts = torch.tensor([0, *counts[:-1]], device=x.share.device).cumsum(0)
    outputs, order, finals = [], [], []
    for first, last, length in sequences.lengths():
        rows = starts[:length, None] + torch.arange(first, last, device=starts.device)
        group = x.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        output, final = _run(name, group, tuple(s[first:last] for s in state), weights, reverse=reverse)
        outputs.append(output.flatten(0, 1))
        order.append(rows.flatten())
        finals.append(final)
    joined: Any = torch.cat(outputs).index_select(0, torch.cat(order).argsort())
    return joined, tuple(torch.cat(column) for column in zip(*finals, strict=True))


def _run(name: str, x: Any, state: tuple[Any, ...], weights: Weights, *, reverse: bool) -> Any:
    """Output (time, N, hidden) and final states (N, hidden) of one layer in one direction, on x (time, N, features)."""
    dtype = weights.inputs.dtype
    x = x if x.dtype == dtype else x.to(dtype)
    share = shares.without_dim(x.share, -1)
    step_share = share if shares.is_uniform(share) else share.mean(1)  # (masks, N, 1): the same at each step
    like = x.like(x.parts[:, :, 0], step_share)
    states = [with_parts(s, like).parts.to(dtype) for s in state]
    with torch.autocast(x.device.type, enabled=False):  # its coarse numbers would add up over the steps
        constants = NETS[name].constant_shares(x)
        steps, constants = (x.flip(0), constants.flip(2)) if reverse else (x, constants)
        output, finals = _run_forwards(name, steps, constants, states, weights)
    return x.like(output.flip(2) if reverse else output, share), tuple(like.like(final, step_share) for final in finals)


def _run_forwards(name: str, x: Any, constants: Tensor, states: list[Tensor], weights: Weights) -> Any:
    """The parts of the output and of the final states, from the first step of x to the last.

    As long as one part is exactly 0 in each row the other one is what the model itself computes.
    """
    alive, first = _alive(x.parts, states, constants), 0
    pieces = []
    if alive is not None:
        both = alive.all(0).transpose(0, 1).flatten(1).any(1).nonzero()
        first = int(both[0]) if len(both) else len(x)
    if alive is not None and first:
        total, totals = model_run(name, x.total[:first], [state.sum(0)[0] for state in states], weights)
        pieces = [torch.where(alive[:, :, :first], total, 0)]
        states = [torch.where(alive[:, :, first - 1], state, 0) for state in totals]
        alive = None if bool(alive[:, :, first:].all()) else alive[:, :, first:]
        x, constants = x[first:], constants[:, :, first:] if constants.shape[2] > 1 else constants
    if len(x):
        output, states = NETS[name](x, constants, weights).run(states, alive)
        pieces.append(output)
    return torch.cat(pieces, 2) if len(pieces) > 1 else pieces[0], states


def _alive(parts: Tensor, states: list[Tensor], constants: Tensor) -> Tensor | None:
    """Where a part may differ from 0, (2, masks, time, N, 1); None where all may.

    A part that no input and no constant has reached so far is exactly 0, which the functions of a vector kernel and of
    its scalar tail, different in the last bit, would not tell.
    """
    reached = (parts != 0).any(-1, keepdim=True) | (constants != 0)
    before = torch.stack([(state != 0).any(-1, keepdim=True) for state in states]).any(0)
    if bool((reached[:, :, 0] | before).all()):
        return None
    return (reached.cumsum(2) > 0) | before.unsqueeze(2)


@cd_rule("_pack_padded_sequence")
def pack(function: Any, input: Decomposed, lengths: Tensor, batch_first: bool) -> tuple[Any, Tensor]:
    """The steps of all sequences in one dimension: the first of each, then the second of each that has one."""
    padded: Any = input.transpose(0, 1) if batch_first else input
    counts = (lengths[None, :] > torch.arange(int(lengths[0]), device="cpu")[:, None]).sum(1)
    rows = [t * padded.shape[1] + n for t, count in enumerate(counts.tolist()) for n in range(count)]
    return padded.flatten(0, 1).index_select(0, torch.tensor(rows, device=input.share.device)), counts


@cd_rule("_pad_packed_sequence")
def unpack(
    function: Any, data: Decomposed, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Any, Tensor]:
    """The inverse of packing."""
    counts = batch_sizes.tolist()
    steps = max(total_length, len(counts))
    lengths = torch.tensor([sum(c > n for c in counts) for n in range(counts[0])], device="cpu")
    rows = [t * counts[0] + n for t, count in enumerate(counts) for n in range(count)]
    padded: Any = torch.full((steps * counts[0], *data.shape[1:]), padding_value, dtype=data.dtype, device="cpu")
    padded = padded.to(data.share.device).index_copy(0, torch.tensor(rows, device=data.share.device), data)
    padded = padded.unflatten(0, (steps, counts[0]))
    return padded.transpose(0, 1) if batch_first else padded, lengths

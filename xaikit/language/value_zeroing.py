"""Value zeroing: how much each position of a layer changes when another token's value vector is zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError

# The last parts of the names of layers that give values, and which share of their output the values are.
VALUES = {
    "v_proj": 1, "value": 1, "v_lin": 1, "crossattention.c_attn": 2, "c_attn": 3, "SelfAttention.v": 1,
    "EncDecAttention.v": 1,
}  # fmt: skip
CROSS = ("encoder_attn", "EncDecAttention", "crossattention", "cross_attn")  # modules of cross-attention
BlockCall = tuple[Any, dict[str, Any], Tensor]  # positional arguments, arguments by name, hidden states that came out
Calls = dict[nn.Module, BlockCall]
Blocks = dict[nn.Module, list[tuple[bool, str, int]]]  # layers of values: whether of cross-attention, name, share


def value_zeroing(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """The relevance of each token (columns) for each position (rows) of the last layer, (T, T).

    C_ij of a layer is the cosine distance of the layer's output at i from what it is with the value vector of token j
    set to 0 in all heads; rows are divided by their sums. The relevance is the product over layers (Mohebbi et al.
    2023, arXiv:2301.12971).

    A layer of a decoder with cross-attention has C_ij of the decoder's tokens j, by its self-attention, and of the
    encoder's, by its cross-attention. Its rows are divided by their sums over both, and the encoder's tokens stand for
    their relevance in the encoder. The relevance is (T, S + T) then, the S tokens of the encoder first.

    Args:
        model: that runs, in evaluation mode.
        inputs: ids of one text (1, T), by the model's argument; of an encoder and a decoder those of both.

    Raises:
        InvalidInputError: for a model whose layers or values are not to be found.
    """
    values = _value_layers(model)
    blocks: Blocks = {}
    for name, share in values.items():
        is_cross = any(part in CROSS for part in name.split("."))
        blocks.setdefault(_block_of(model, name), []).append((is_cross, name, share))
    calls: Calls = {}
    running: set[nn.Module] = set()  # an encoder built as a decoder has a cross-attention that never runs
    handles = [model.get_submodule(name).register_forward_hook(lambda m, *_: running.add(m)) for name in values]
    handles += [
        block.register_forward_hook(
            lambda module, args, kwargs, output: calls.update({module: (args, kwargs, _hidden(output))}),
            with_kwargs=True,
        )
        for block in blocks
    ]
    with torch.no_grad():
        try:
            model(**inputs, use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        blocks = {b: [v for v in ends if model.get_submodule(v[1]) in running] for b, ends in blocks.items()}
        return _joined(model, blocks, calls, inputs["input_ids"].shape[1])


def _joined(model: nn.Module, blocks: Blocks, calls: Calls, n_tokens: int) -> Tensor:
    """The layers' distances, multiplied in the order of the layers; the encoder's come first."""
    relevance, of_encoder = torch.eye(n_tokens, device="cpu"), None
    for block, call in calls.items():
        lengths = {False: call[2].shape[1], True: n_tokens}
        parts = {
            is_cross: _distances(block, model.get_submodule(name), share, call, lengths[is_cross])
            for is_cross, name, share in blocks[block]
        }
        within = parts[False]
        relevance = relevance.to(within)
        if True not in parts:
            relevance = _to_one(within) @ relevance
            continue
        if of_encoder is None:  # the decoder begins
            other = within.new_zeros(n_tokens, len(within))
            of_encoder = torch.cat([relevance, other], 1)
            relevance = torch.cat([other.T, torch.eye(len(within), dtype=within.dtype, device=within.device)], 1)
        relevance = _to_one(torch.cat([parts[True], within], 1)) @ torch.cat([of_encoder, relevance])
    return relevance


def _to_one(distances: Tensor) -> Tensor:
    """Rows divided by their sums."""
    sums = distances.sum(1, keepdim=True)
    return distances / sums.masked_fill(sums == 0, 1)


def _distances(block: nn.Module, values: nn.Module, share: int, call: BlockCall, n_tokens: int) -> Tensor:
    """How far each position of a layer's output turns (rows) without the value vector of each token (columns)."""
    args, kwargs, clean = call
    # A cache would bring the keys of the first pass along; an encoder built as a decoder has one in spite of use_cache.
    args, kwargs = [_uncached(v) for v in args], {key: _uncached(v) for key, v in kwargs.items()}
    columns = []
    for token in range(n_tokens):

        def zeroed(_module: Any, _args: Any, output: Tensor, token: int = token) -> Tensor:
            output = output.clone()
            output[:, token, output.shape[-1] - output.shape[-1] // share :] = 0
            return output

        handle = values.register_forward_hook(zeroed)
        try:
            changed = _hidden(block(*args, **kwargs))
        finally:
            handle.remove()
        columns.append(1 - torch.cosine_similarity(clean[0], changed[0], dim=-1))
    return torch.stack(columns, 1).clamp_min(0)


def _uncached(value: Any) -> Any:
    return None if hasattr(value, "get_seq_length") else value


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


def _value_layers(model: nn.Module) -> dict[str, int]:
    names = {}
    for name, _ in model.named_modules():
        share = next((VALUES[end] for end in VALUES if f".{name}".endswith(f".{end}")), None)
        if share is not None:
            names[name] = share
    if not names:
        raise InvalidInputError(
            f"no layer of the {type(model).__name__} is named as one that gives values ({', '.join(VALUES)}); use "
            "method='rollout' or explain_generation"
        )
    return names


def _block_of(model: nn.Module, name: str) -> nn.Module:
    """The item of the outermost list of layers in which a module stands: a block of T5 is a list itself."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        if isinstance(model.get_submodule(".".join(parts[: end - 1])), nn.ModuleList):
            return model.get_submodule(".".join(parts[:end]))
    raise InvalidInputError(f"the layer {name!r} stands in no list of layers, so its output cannot be compared")

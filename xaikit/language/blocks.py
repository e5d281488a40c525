"""The blocks of a transformer, one after the other, and where the heads of each hand on what they read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names

# How the linear layer is named that joins the heads of a self-attention, seen from its block.
PROJECTIONS = (
    "self_attn.o_proj", "self_attn.out_proj", "self_attn.dense", "attn.c_proj", "attn.out_proj", "attn.proj",
    "attention.output.dense", "attention.out_lin", "attention.o_proj", "attention.dense", "attention.out_proj",
    "SelfAttention.o", "self_attention.dense",
)  # fmt: skip
Lists = dict[str, nn.ModuleList | nn.Sequential]
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head")


@dataclasses.dataclass(frozen=True)
class Block:
    """One block.

    Attributes:
        name: of the module.
        projection: name of the layer that joins its heads; empty for a block without self-attention.
        n_heads: how many heads it joins; 0 without self-attention.
    """

    name: str
    projection: str
    n_heads: int


def blocks_of(model: nn.Module, layers: str | None = None) -> list[Block]:
    """The blocks of a model, in their order.

    Args:
        model: a transformer, or another model with a list of blocks.
        layers: the name of the list; None looks for one whose blocks have self-attention, else for the only list.

    Raises:
        UnknownNameError: when the model has no such list.
        InvalidInputError: when the model has none, or several.
    """
    lists: Lists = {
        name: m for name, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m)
    }
    if layers is not None:
        if layers not in lists:
            raise UnknownNameError(f"the model has no list of layers {layers!r}{near_names(layers, lists)}")
        name = layers
    else:
        name = _only_list(model, lists)
    return [_block(model, f"{name}.{i}", block) for i, block in enumerate(lists[name])]


def read_tokens_of(inputs: Any, tokenizer: Any, texts_of: Any) -> list[list[str]]:
    """How the tokens of a batch read; empty where the inputs hold no ids (N, T).

    Args:
        inputs: the model's arguments by name, or ids.
        tokenizer: of Hugging Face, or None.
        texts_of: reads a list of ids with a tokenizer.
    """
    ids = inputs.get("input_ids") if hasattr(inputs, "get") else inputs
    tensor = None if ids is None else to_tensor(ids, "inputs")
    if tensor is None or tensor.is_floating_point() or tensor.ndim != 2:
        return []
    return [texts_of(tokenizer, row) for row in tensor.tolist()]


def first_of(output: Any) -> Tensor:
    """The hidden states (N, T, D) among what a block returns."""
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


def with_first(output: Any, hidden: Tensor) -> Any:
    """What a block returned, with other hidden states.

    Args:
        output: a tensor, or a tuple that begins with one.
        hidden: the other ones.
    """
    return hidden if isinstance(output, Tensor) else (hidden, *output[1:])


def stacked(values: Sequence[Tensor]) -> Tensor:
    """Numbers (N,) of each layer as (N, L)."""
    return torch.stack(list(values), 1)


def _only_list(model: nn.Module, lists: Lists) -> str:
    outer = [name for name in lists if not any(name.startswith(f"{other}.") for other in lists)]
    with_heads = [name for name in outer if _projection(lists[name][0])]
    plain = [n for n in outer if isinstance(lists[n], nn.ModuleList)]
    candidates = with_heads or plain
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        raise InvalidInputError(
            f"the {type(model).__name__} has no list of blocks (nn.ModuleList); name what holds them with layers="
        )
    raise InvalidInputError(
        f"the {type(model).__name__} has several lists of layers, {', '.join(candidates)}; name one with layers="
    )


def _projection(block: nn.Module) -> str:
    names = [name for name, _ in block.named_modules() if name]
    return next((name for name in names if f".{name}".endswith(tuple(f".{end}" for end in PROJECTIONS))), "")


def _block(model: nn.Module, name: str, block: nn.Module) -> Block:
    projection = _projection(block)
    if not projection:
        return Block(name, "", 0)
    return Block(name, f"{name}.{projection}", _heads(model, block, projection))


def _heads(model: nn.Module, block: nn.Module, projection: str) -> int:
    """The number of heads, by the attention's attributes or the configuration.

    Raises:
        InvalidInputError: when neither says it.
    """
    parts = projection.split(".")
    for end in range(len(parts) - 1, -1, -1):
        parent = block.get_submodule(".".join(parts[:end]))
        for holder in (parent, *(m for m in parent.children() if end)):
            count = next((getattr(holder, n) for n in HEAD_COUNTS if isinstance(getattr(holder, n, None), int)), None)
            if count is not None:
                return int(count)
    config: Any = getattr(model, "config", None) or getattr(block, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    count = getattr(text, "num_attention_heads", None)
    if not isinstance(count, int):
        raise InvalidInputError(
            f"the number of heads of {projection!r} is not to be found; set num_heads on its attention module"
        )
    return count

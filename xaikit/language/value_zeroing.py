"""Value zeroing: how much each position of a layer changes when another token's value vector is zero."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError

# The last parts of the names of layers that give values, and which share of their output the values are.
VALUES = {"v_proj": 1, "value": 1, "v_lin": 1, "c_attn": 3}


def value_zeroing(model: Any, ids: Sequence[int], device: torch.device) -> Tensor:
    """The relevance of each token (columns) for each position (rows) of the last layer, (T, T).

    C_ij of a layer is the cosine distance of the layer's output at i from what it is with the value vector of token j
    set to 0 in all heads; rows are divided by their sums. The relevance is the product over layers (Mohebbi et al.
    2023, arXiv:2301.12971).

    Args:
        model: that runs, in evaluation mode.
        ids: of the text.
        device: where the model is.

    Raises:
        InvalidInputError: for a model whose layers or values are not to be found.
    """
    values = _value_layers(model)
    blocks = [_block_of(model, name) for name in values]
    calls: dict[nn.Module, tuple[Any, dict[str, Any], Tensor]] = {}
    handles = [
        block.register_forward_hook(
            lambda module, args, kwargs, output: calls.update({module: (args, kwargs, _hidden(output))}),
            with_kwargs=True,
        )
        for block in blocks
    ]
    with torch.no_grad():
        try:
            model(torch.tensor([list(ids)], device=device), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        relevance = torch.eye(len(ids), device=device)
        for block, (name, share) in zip(blocks, values.items(), strict=True):
            layer = _distances(block, model.get_submodule(name), share, calls[block])
            relevance = layer @ relevance.to(layer)
    return relevance


def _distances(block: nn.Module, values: nn.Module, share: int, call: tuple[Any, dict[str, Any], Tensor]) -> Tensor:
    """One layer's distances with rows that sum to 1, (T, T)."""
    args, kwargs, clean = call
    columns = []
    for token in range(clean.shape[1]):

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
    distances = torch.stack(columns, 1).clamp_min(0)
    sums = distances.sum(1, keepdim=True)
    return distances / sums.masked_fill(sums == 0, 1)


def _hidden(output: Any) -> Tensor:
    hidden: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden


def _value_layers(model: nn.Module) -> dict[str, int]:
    names = {name: VALUES[end] for name, _ in model.named_modules() if (end := name.rpartition(".")[2]) in VALUES}
    if not names:
        raise InvalidInputError(
            f"no layer of the {type(model).__name__} is named as one that gives values ({', '.join(VALUES)}); use "
            "method='rollout' or explain_generation"
        )
    return names


def _block_of(model: nn.Module, name: str) -> nn.Module:
    """The item of a list of layers in which a module stands."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if isinstance(model.get_submodule(".".join(parts[: end - 1])), nn.ModuleList):
            return model.get_submodule(".".join(parts[:end]))
    raise InvalidInputError(f"the layer {name!r} stands in no list of layers, so its output cannot be compared")

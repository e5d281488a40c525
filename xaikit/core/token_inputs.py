"""Finding the inputs of a model that are tokens of a vocabulary, and the embeddings that read them."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from xaikit.core.layers import LayerPoint, hooked
from xaikit.core.structure import Tensors

if TYPE_CHECKING:
    from xaikit.core.call import Call

# Parts of the names of arguments that hold whole numbers but no tokens: attention_mask, token_type_ids, position_ids.
OTHER_NAMES = ("mask", "type", "segment", "position", "length", "lens")
# An embedding counts as one of tokens if it has at least an eighth of the rows of the largest one: a vocabulary has
# many rows, token types and the like have few.
SMALLER = 8

# Names of the key-value cache or state in models of transformers: the first one since 5.24, the others before.
CACHE_NAMES = ("cache", "past_key_values", "cache_params")


class Lookup(NamedTuple):
    """An embedding that reads one of the model's inputs.

    Attributes:
        layer: the embedding's name.
        position: of the input.
        rows: of the embedding.
    """

    layer: str
    position: int
    rows: int


def token_inputs(call: Call) -> set[int]:
    """Which of a call's own inputs are tokens, by their index: not masks, types or positions.

    Args:
        call: the open call, at the model's inputs or at layers.
    """
    uncut = call if call.uncut is None else call.uncut
    inputs = call.own_inputs
    candidates = _candidates(inputs, _names(call.model, call.input_names, len(inputs)))
    if len(candidates) < 2:
        return candidates
    with torch.no_grad():
        lookups = find_lookups(call.model, inputs, candidates, lambda: uncut.forward(inputs, call.samples))
    points = call.layers or call.read_at
    positions = {lookup.position for point in points for lookup in _of_tokens(lookups, point)} if points else set()
    return positions or {lookup.position for lookup in _of_tokens(lookups)} or candidates


def read_tokens(call: Call, values: Tensors) -> Tensor | None:
    """The input of token ids (N, T) whose embeddings (N, T, D) an attribution is about; None if there is none.

    Args:
        call: the open call.
        values: its attribution.
    """
    inputs = call.own_inputs
    if len(values) > 1 or values[0].ndim != 3 or all(x.shape != values[0].shape[:2] for x in inputs):
        return None
    return next((inputs[i] for i in sorted(token_inputs(call)) if inputs[i].shape == values[0].shape[:2]), None)


def token_layers(model: nn.Module, inputs: Tensors, names: Sequence[str], forward: Callable[[], Any]) -> list[str]:
    """The names of the embeddings that read the tokens among a model's inputs, in the order in which they run.

    Args:
        model: a model that may be run.
        inputs: its inputs.
        names: of the inputs, if the model takes them by name.
        forward: runs it on them.
    """
    candidates = _candidates(inputs, _names(model, names, len(inputs)))
    with torch.no_grad(), contextlib.suppress(Exception):  # a model that fails says so by itself
        return list(dict.fromkeys(x.layer for x in _of_tokens(find_lookups(model, inputs, candidates, forward))))
    return []


def find_lookups(model: nn.Module, inputs: Tensors, candidates: set[int], forward: Callable[[], Any]) -> list[Lookup]:
    """The embeddings that read the candidates among the inputs during one forward pass.

    Args:
        model: what runs.
        inputs: its inputs.
        candidates: indices of those that are looked for.
        forward: runs it on them.
    """
    lookups: list[Lookup] = []

    def note(args: Any, *, name: str, rows: int) -> None:
        ids = args.get("input") if isinstance(args, Mapping) else args[0]
        if isinstance(ids, Tensor):
            lookups.extend(Lookup(name, i, rows) for i in sorted(candidates) if _same_ids(ids, inputs[i]))

    embeddings = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
    with hooked(
        [
            (LayerPoint(name, m, is_input=True), functools.partial(note, name=name, rows=m.num_embeddings))
            for name, m in embeddings
        ]
    ):
        forward()
    return lookups


def _of_tokens(lookups: Sequence[Lookup], point: LayerPoint | None = None) -> list[Lookup]:
    """The look-ups in a vocabulary, of a layer if one is named and looks tokens up."""
    if point is not None:
        lookups = [x for x in lookups if f"{x.layer}.".startswith(f"{point.name}.")]
    largest = max((lookup.rows for lookup in lookups), default=0)
    return [lookup for lookup in lookups if lookup.rows * SMALLER >= largest]


def _same_ids(ids: Tensor, x: Tensor) -> bool:
    return ids.numel() == x.numel() and torch.equal(ids.reshape(-1), x.reshape(-1).to(ids.dtype))


def _names(model: nn.Module, input_names: Sequence[str], count: int) -> list[str]:
    """The names of the first arguments of a model, empty where they have none."""
    if input_names:
        return list(input_names)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return [*names, *[""] * count][:count]


def _candidates(inputs: Tensors, names: Sequence[str]) -> set[int]:
    """The inputs of whole numbers whose names do not say that they are something else; all, where every name does."""
    whole = [i for i, x in enumerate(inputs) if not (x.is_floating_point() or x.is_complex() or x.dtype == torch.bool)]
    return {i for i in whole if not any(part in names[i].lower() for part in OTHER_NAMES)} or set(whole)

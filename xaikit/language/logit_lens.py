"""logit_lens: what a model would answer if it stopped after each of its blocks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaikit import upward
from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.inputs import read_inputs
from xaikit.core.model_device import model_device
from xaikit.core.model_state import evaluated
from xaikit.core.pandas_import import import_pandas
from xaikit.core.results import Result
from xaikit.core.structure import check_batch, flatten
from xaikit.core.target_rows import pick_head
from xaikit.language.blocks import blocks_of, first_of, stacked, with_first
from xaikit.language.token_text import readable, token_texts


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LogitLens(Result):
    """The target's logit, read from the hidden state after each block; `logit_lens` returns it.

    Attributes:
        values: the logit (N, L + 1): of what goes into the first block, and of what each block returns. The last is
            the model's own.
        probabilities: the same as shares of a softmax, (N, L + 1).
        ranks: how many classes have a larger logit, (N, L + 1); 0 is the best.
        best: the class with the largest logit, (N, L + 1).
        targets: the class of each sample, (N,).
        layers: "input", and the names of the blocks.
        target_names: how the targets read.
        best_names: how the best classes read, of each sample a list.
    """

    values: Tensor
    probabilities: Tensor
    ranks: Tensor
    best: Tensor
    targets: Tensor
    layers: list[str]
    target_names: list[str]
    best_names: list[list[str]]

    def to_pandas(self) -> Any:
        """A table with a row for each sample and layer.

        Raises:
            MissingDependencyError: without pandas.
        """
        rows = [
            {
                "sample": sample,
                "layer": name,
                "target": self.target_names[sample],
                "logit": float(self.values[sample, i]),
                "probability": float(self.probabilities[sample, i]),
                "rank": int(self.ranks[sample, i]),
                "best": self.best_names[sample][i],
            }
            for sample in range(len(self.values))
            for i, name in enumerate(self.layers)
        ]
        return import_pandas().DataFrame(rows)

    def plot(self, sample: int = 0) -> Any:
        """A figure: the target's logit after each block, and what would be the answer there.

        Args:
            sample: which.

        Returns:
            A figure of matplotlib.
        """
        return upward.load("layer_figures").lens_figure(self, sample)

    def __repr__(self) -> str:
        return f"LogitLens of {len(self.values)} samples after {len(self.layers) - 1} blocks"


def logit_lens(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    position: int = -1,
    layers: str | None = None,
    tokenizer: Any = None,
) -> LogitLens:
    """The target's logit, read from the hidden state after each block.

    The hidden state after block l takes the place of what the last block returns, and the rest of the model (the final
    norm and the head, or pooling and classifier) reads it (nostalgebraist 2020, "interpreting GPT: the logit lens").

    Args:
        model: a transformer: causal, encoder with a classifier, or encoder-decoder.
        inputs: its arguments by name, or ids (N, T).
        targets: a token or class for all samples, or one for each; None takes what the model answers.
        position: the place along the text that is read, where the output is (N, T, V); texts of a batch are padded on
            the left where it is -1.
        layers: name of the list of blocks; only needed where the model has several, as an encoder and a decoder.
        tokenizer: names the tokens; None shows ids.

    Raises:
        InvalidInputError: for a model whose blocks are not to be found, or targets that it has no logit for.
        InvalidTypeError: for something that is no model.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"logit_lens takes a model, got a {type(model).__name__}")
    device = model_device(model)
    inputs = read_inputs(inputs, model)
    by_name = isinstance(inputs, Mapping)
    parts, _ = flatten(inputs)
    check_batch(parts)
    names = list(inputs) if by_name else [f"inputs {i}" for i in range(len(parts))]
    tensors = {name: value.to(device) for name, value in zip(names, parts, strict=True)}
    blocks = blocks_of(model, layers)
    with evaluated(model, device) as running, torch.no_grad():
        modules = [running.get_submodule(block.name) for block in blocks]

        def run() -> Tensor:
            output = running(**tensors) if by_name else running(*tensors.values())
            return _at(pick_head(output, "logits"), position)

        hidden, last = _hidden_states(modules, run)
        logits = [_replaced(modules[-1], state, run) for state in hidden[:-1]] + [last]
    chosen = _targets(targets, last)
    index = chosen[:, None]
    values = stacked([layer.gather(1, index)[:, 0] for layer in logits])
    shares = stacked([layer.float().softmax(-1).gather(1, index)[:, 0] for layer in logits])
    ranks = stacked([(layer > layer.gather(1, index)).sum(1) for layer in logits])
    best = stacked([layer.argmax(1) for layer in logits])
    is_text = tokenizer is not None
    return LogitLens(
        values=values.cpu(),
        probabilities=shares.cpu(),
        ranks=ranks.cpu(),
        best=best.cpu(),
        targets=chosen.cpu(),
        layers=["input", *(block.name for block in blocks)],
        target_names=[_name(tokenizer, c) if is_text else str(c) for c in chosen.tolist()],
        best_names=[[_name(tokenizer, c) if is_text else str(c) for c in row] for row in best.tolist()],
    )


def _name(tokenizer: Any, token: int) -> str:
    return readable(token_texts(tokenizer, [token]))[0]


def _hidden_states(modules: list[nn.Module], run: Callable[[], Tensor]) -> tuple[list[Tensor], Tensor]:
    """What goes into the first block and what each returns, and the logits (N, V) of that pass.

    Raises:
        InvalidInputError: when a block does not run.
    """
    states: dict[int, Tensor] = {}

    def enter(_module: Any, args: Any, kwargs: Any) -> None:
        states.setdefault(0, first_of(args[0] if args else kwargs["hidden_states"]))

    handles: list[Any] = [modules[0].register_forward_pre_hook(enter, with_kwargs=True)]
    for i, module in enumerate(modules):

        def leave(_module: Any, _args: Any, output: Any, i: int = i) -> None:
            states[i + 1] = first_of(output)

        handles.append(module.register_forward_hook(leave))
    try:
        logits = run()
    finally:
        for handle in handles:
            handle.remove()
    missing = [i for i in range(len(modules) + 1) if i not in states]
    if missing:
        raise InvalidInputError(f"blocks {missing} of the model do not run; name the list of blocks with layers=")
    return [states[i] for i in range(len(modules) + 1)], logits


def _replaced(last: nn.Module, hidden: Tensor, run: Callable[[], Tensor]) -> Tensor:
    """The logits (N, V) where the last block returns another hidden state."""
    handle = last.register_forward_hook(lambda _module, _args, output: with_first(output, hidden))
    try:
        return run()
    finally:
        handle.remove()


def _at(output: Any, position: int) -> Tensor:
    """The logits (N, V) of one place.

    Raises:
        InvalidInputError: for an output without logits, or a place outside.
    """
    if not isinstance(output, Tensor) or output.ndim not in (2, 3):
        raise InvalidInputError("logit_lens reads logits (N, V) or (N, T, V); this model returns something else")
    if output.ndim == 2:
        return output
    if not -output.shape[1] <= position < output.shape[1]:
        raise InvalidInputError(f"position must be within the text of {output.shape[1]} tokens, got {position}")
    return output[:, position]


def _targets(targets: Any, logits: Tensor) -> Tensor:
    if targets is None:
        return logits.argmax(1)
    chosen = to_tensor(targets, "targets").to(logits.device)
    if chosen.is_floating_point() or chosen.ndim > 1 or (chosen.ndim == 1 and len(chosen) != len(logits)):
        raise InvalidInputError(
            f"targets are a token for all samples or one for each of the {len(logits)}, and position= says where it is "
            f"read, got {targets!r}"
        )
    if bool(((chosen < 0) | (chosen >= logits.shape[1])).any()):
        raise InvalidInputError(f"targets must be from 0 to {logits.shape[1] - 1}, got {targets!r}")
    return chosen.long().expand(len(logits))

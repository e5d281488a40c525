"""Teacher forcing: how a model runs on a prompt and its answer in one pass, and where its tokens are embedded."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import Explainer, torch_private
from xaikit.core.errors import InvalidInputError, UnboundError
from xaikit.core.model_state import evaluated
from xaikit.core.target_rows import pick_head
from xaikit.core.token_inputs import find_lookups


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model on one prompt and its answer.

    Attributes:
        inputs: the model's arguments, each for one sample; the last generated token influences nothing and is left out.
        extras: further arguments, which no sample has for itself.
        layers: the names of the embeddings, or of the layers that the user chose; the encoder's first.
        lengths: the number of tokens at each layer.
        first: the place in the logits that predicts the first generated token.
    """

    inputs: dict[str, Tensor]
    extras: dict[str, Any]
    layers: tuple[str, ...]
    lengths: tuple[int, ...]
    first: int

    def explainer(self, explainer: Explainer) -> Explainer:
        """The explainer at these layers, which passes the further arguments on.

        Args:
            explainer: as the user made it.
        """
        extras = _Extras(self.extras, explainer.additional_forward_arg_extractor)
        layer: Any = self.layers if len(self.layers) > 1 else self.layers[0]
        return explainer.set_kwargs(layer=layer, additional_forward_arg_extractor=extras)


@dataclasses.dataclass(frozen=True)
class _Extras:
    """The model's further arguments: the teacher's, and those that the user's function takes out of the inputs."""

    extras: dict[str, Any]
    extractor: Any

    def __call__(self, inputs: Any) -> dict[str, Any]:
        more = {} if self.extractor is None else self.extractor(inputs)
        return {**self.extras, **(more if isinstance(more, Mapping) else {})}

    def __repr__(self) -> str:
        return f"<{', '.join(self.extras)}>"


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether a model reads the prompt in an encoder, and writes the answer in a decoder."""
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def bound_model(explainer: Explainer) -> Any:
    """The model of an explainer.

    Raises:
        UnboundError: for an explainer without one.
    """
    if explainer.model is None:
        raise UnboundError(f"{explainer!r} has no model yet; call .bind(model) first")
    return explainer.model


def teach(explainer: Explainer, prompt: Sequence[int], answer: Sequence[int], more: Mapping[str, Tensor]) -> Teacher:
    """How the model of an explainer runs on a prompt and an answer.

    Args:
        explainer: bound; its layer, if it has one, is where the tokens are explained.
        prompt: ids.
        answer: ids.
        more: further tensors that the model takes for this prompt, such as pixel values.

    Raises:
        InvalidInputError: for ids that the model has no embedding for, more of them than it can read, and a model
            whose embeddings are not to be found.
    """
    model = bound_model(explainer)
    check_window(model, len(prompt), len(answer))
    device = explainer.device
    parameters = inspect.signature(model.forward).parameters
    extras: dict[str, Any] = {"use_cache": False} if "use_cache" in parameters else {}
    if is_encoder_decoder(model):
        start = decoder_start(model)
        ids = {"input_ids": [*prompt], "decoder_input_ids": [start, *answer[:-1]]}
        first = 0
    else:
        ids = {"input_ids": [*prompt, *answer[:-1]]}
        first = len(prompt) - 1
        if "logits_to_keep" in parameters:
            extras["logits_to_keep"] = len(answer)
            first = 0
    tensors = {name: torch.tensor([row], device=device) for name, row in ids.items()}
    if "attention_mask" in parameters and "attention_mask" not in more:
        # Some models take the padding token for padding where nothing says that it is text.
        extras["attention_mask"] = torch.ones_like(tensors["input_ids"])
    inputs = {**tensors, **{name: value.to(device) for name, value in more.items()}}
    check_vocabulary(model, [token for row in ids.values() for token in row])
    layers = tuple(explainer.layers) or _embeddings(explainer, inputs, extras, len(ids))
    if len(layers) != len(ids):
        raise InvalidInputError(
            f"a {type(model).__name__} reads {len(ids)} texts, so the explainer needs {len(ids)} layers, got layer="
            f"{explainer.layer!r}; leave layer= out, which takes the embeddings"
        )
    if len(answer) > 1 and torch_private.quantised_kind(model) is None:  # one scale for all tokens of a pass: no test
        check_causal(explainer, inputs, extras, [*ids][-1], first)
    return Teacher(inputs, extras, layers, tuple(len(row) for row in ids.values()), first)


def check_causal(
    explainer: Explainer, inputs: dict[str, Tensor], extras: dict[str, Any], name: str, first: int
) -> None:
    """Refuse a model that sees the tokens after the one that it predicts: one pass is not how it generates.

    Args:
        explainer: bound.
        inputs: the model's arguments, each for one sample.
        extras: further arguments.
        name: of the argument that ends in the answer.
        first: the place in the logits that predicts the first generated token.

    Raises:
        InvalidInputError: when another last token changes the prediction of the first.
    """
    model = bound_model(explainer)
    changed = inputs[name].clone()
    changed[0, -1] = changed[0, 0] if changed[0, -1] != changed[0, 0] else changed[0, -1] - changed[0, -1].sign()
    with evaluated(model, explainer.device) as running, torch.no_grad():

        def predicted(ids: Tensor) -> Tensor:
            output = running(**{**inputs, name: ids}, **extras)
            logits: Tensor = pick_head(output, "logits" if explainer.head is None else explainer.head)
            return logits[0, first]

        before, after = predicted(inputs[name]), predicted(changed)
        differs = float((after - before).abs().max() / before.abs().max().clamp_min(1e-30))
        is_random = differs > 0 and not torch.equal(before, predicted(inputs[name]))
    if differs > min(100 * torch.finfo(before.dtype).eps, 0.02) and not is_random:
        raise InvalidInputError(
            f"the {type(model).__name__} sees the tokens after the one that it predicts, so it generates nothing token "
            "by token; take a causal model (of a BERT: with is_decoder=True in its config)"
        )


def decoder_start(model: Any) -> int:
    """The token with which a decoder begins.

    Raises:
        InvalidInputError: when the model's configuration names none.
    """
    config = model.config
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        token = getattr(config, name, None)
        if isinstance(token, int):
            return token
    raise InvalidInputError(
        f"the {type(model).__name__} names no first token of its decoder; set model.config.decoder_start_token_id"
    )


def _embeddings(explainer: Explainer, inputs: dict[str, Tensor], extras: dict[str, Any], count: int) -> tuple[str, ...]:
    model = bound_model(explainer)
    tensors, texts = tuple(inputs.values()), set(range(count))  # the ids stand first
    with evaluated(model, explainer.device) as running, torch.no_grad():
        lookups = find_lookups(running, tensors, texts, lambda: running(**inputs, **extras))
    # A module may read the ids for their number alone, as BART's positions do: the vocabulary is the largest.
    layers = []
    for position in sorted({lookup.position for lookup in lookups}):
        layers.append(max((x for x in lookups if x.position == position), key=lambda x: x.rows).layer)
    if len(layers) == count:
        return tuple(layers)
    candidates = [name for name, module in model.named_modules() if isinstance(module, nn.Embedding)]
    raise InvalidInputError(
        f"the {type(model).__name__} looks its tokens up in no layer that is an nn.Embedding"
        f"{f' of {candidates}' if candidates else ''}; name the layer that returns a vector for each token, layer= of "
        "the explainer"
    )


def check_window(model: Any, n_prompt: int, n_answer: int) -> None:
    """Refuse more tokens than a model has positions for.

    Raises:
        InvalidInputError: with the numbers.
    """
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    window = getattr(text, "max_position_embeddings", None)
    if not isinstance(window, int) or window < 1:
        return
    n = max(n_prompt, n_answer) if is_encoder_decoder(model) else n_prompt + n_answer
    if n > window:
        raise InvalidInputError(
            f"the model reads up to {window} tokens, and the prompt has {n_prompt}, the answer {n_answer}; shorten the "
            "prompt, or generate fewer tokens"
        )


def check_vocabulary(model: Any, ids: Sequence[int] = (), tokenizer: Any = None) -> None:
    """Refuse a tokenizer that knows more tokens than the model embeds, and ids that the model has no embedding for.

    Args:
        model: the model.
        ids: of tokens, of the prompt or of the answer.
        tokenizer: the tokenizer, if there is one.

    Raises:
        InvalidInputError: with both numbers.
    """
    embed = getattr(model, "get_input_embeddings", None)
    try:
        rows = getattr(embed() if callable(embed) else None, "num_embeddings", None)
    except NotImplementedError:  # a model of transformers without embeddings by the usual name
        rows = None
    if rows is None:
        return
    if tokenizer is not None and hasattr(tokenizer, "__len__") and len(tokenizer) > rows:
        raise InvalidInputError(
            f"the tokenizer knows {len(tokenizer)} tokens and the model embeds {rows}: it belongs to another model; "
            "pass the tokenizer that the model was trained with"
        )
    if missing := [token for token in ids if not 0 <= token < rows]:
        raise InvalidInputError(
            f"token {missing[0]} has no embedding in a model of {rows} tokens; pass the tokenizer of this model"
        )

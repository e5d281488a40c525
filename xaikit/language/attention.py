"""explain_attention: what an answer rests on by the model's attention weights, the baselines of the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError, near_names
from xaikit.core.model_state import evaluated
from xaikit.explainers.attention import METHODS, crossed, joined_layers, read_layers
from xaikit.language.generation import Generation, with_future
from xaikit.language.scores import AnswerScore, TokenScore, against_ids, token_scores
from xaikit.language.single_prompts import SinglePrompt, read_single
from xaikit.language.value_zeroing import value_zeroing

CHOICES = (*METHODS, "value_zeroing")


def explain_attention(  # noqa: PLR0913
    model: nn.Module,
    tokenizer: Any,
    prompt: Any,
    *,
    method: str = "rollout",
    generated: Any = None,
    generation: Mapping[str, Any] | None = None,
    target: str | AnswerScore = "logit",
    seed: int = 0,
) -> Generation:
    """What each generated token rests on, by the attention of all layers.

    * "rollout": the product over layers of (mean over heads of the weights A + 1) / 2 (Abnar & Zuidema 2020,
      arXiv:2005.00928). It does not depend on the score.
    * "gradient_rollout": the same with (A * dS/dA)+ in place of A, each row divided by its sum.
    * "transformer_attribution": R = R + mean over heads of (A * dS/dA)+ R from layer to layer, beginning with the
      identity; of an encoder and a decoder with cross-attention, too (Chefer et al. 2021, arXiv:2103.15679).
    * "value_zeroing": the product over layers of how much a position's vector turns when the value vector of another
      token is zero (Mohebbi et al. 2023, arXiv:2301.12971). It does not depend on the score either.

    The papers of the rollouts and of value zeroing define them for one stack of layers. Of an encoder and a decoder a
    decoder position reads the encoder's tokens too, through the cross-attention, each by its relevance in the encoder:
    see `xaikit.explainers.attention.crossed` and `value_zeroing`. Rows then sum to 1 over the tokens of both.

    These are baselines to compare with. Attention says where a layer reads, not what it does with what it reads.

    Args:
        model: a causal model of transformers, or an encoder-decoder. It must return its attention weights
            (``model.set_attn_implementation("eager")``), except for "value_zeroing".
        tokenizer: the model's; None where prompt and answer are token ids.
        prompt: a single one, as for `explain_generation`.
        method: one of the four.
        generated: the answer, as for `explain_generation`.
        generation: arguments of the model's `generate`.
        target: the score of each generated token, as for `explain_generation`.
        seed: of the sampling.

    Returns:
        A generation; its rows do not add up to the scores.

    Raises:
        InvalidInputError, InvalidTypeError: for a model without attention weights, an unknown method, a prompt or an
            answer that cannot be read.
    """
    if method not in CHOICES:
        raise InvalidInputError(f"method is one of {', '.join(CHOICES)}, got {method!r}{near_names(method, CHOICES)}")
    text = read_single(
        model, tokenizer, prompt, caller="explain_attention", generated=generated, generation=generation, target=target,
        seed=seed,
    )  # fmt: skip
    first = 0 if text.start else len(text.prompt.ids) - 1
    scores = token_scores(text.score, first, text.answer, against_ids(text.score, text.answer, tokenizer))
    with evaluated(model, text.device) as running, torch.enable_grad():
        values, explained = (_of_both if text.start else _of_decoder)(running, text, scores, method)
    values = with_future(values, len(text.frame.tokens)).cpu()
    return dataclasses.replace(
        text.frame,
        values=values,
        scores=explained.cpu(),
        residual=(explained - values.sum(1).to(explained)).cpu(),
        spec={"name": method, "settings": {}},
    )


def _of_decoder(model: Any, text: SinglePrompt, scores: list[TokenScore], method: str) -> tuple[Tensor, Tensor]:
    """The rows of the scores (S, T), and the scores (S,), of a causal model."""
    ids = [*text.prompt.ids, *text.answer[:-1]]
    zeroed = method == "value_zeroing"
    output = model(inputs_embeds=_embedded(model, ids, text.device), output_attentions=not zeroed, use_cache=False)
    explained = torch.stack([score.scores(output.logits)[0] for score in scores])
    if zeroed:
        relevance = value_zeroing(model, {"input_ids": torch.tensor([ids], device=text.device)})
        rows = [relevance[list(score.places)].sum(0) for score in scores]
        return torch.stack(rows), explained.detach()
    weights = _weights(model, output, "attentions")
    rows = []
    for score, value in zip(scores, explained, strict=True):
        gradients = None
        if method != "rollout":
            gradients = torch.autograd.grad(value, weights, retain_graph=True)
        rows.append(joined_layers(read_layers(weights, gradients), method)[0, list(score.places)].sum(0))
    return torch.stack(rows), explained.detach()


def _of_both(model: Any, text: SinglePrompt, scores: list[TokenScore], method: str) -> tuple[Tensor, Tensor]:
    """The same of an encoder and a decoder: the encoder's tokens first."""
    zeroed = method == "value_zeroing"
    decoder_ids = torch.tensor([[*text.start, *text.answer[:-1]]], device=text.device)
    output = model(
        inputs_embeds=_embedded(model, text.prompt.ids, text.device),
        decoder_input_ids=decoder_ids,
        output_attentions=not zeroed,
        use_cache=False,
    )
    explained = torch.stack([score.scores(output.logits)[0] for score in scores])
    if zeroed:
        ids = torch.tensor([list(text.prompt.ids)], device=text.device)
        relevance = value_zeroing(model, {"input_ids": ids, "decoder_input_ids": decoder_ids})
        return torch.stack([relevance[list(score.places)].sum(0) for score in scores]), explained.detach()
    names = ("encoder_attentions", "decoder_attentions", "cross_attentions")
    groups = [_weights(model, output, name) for name in names]
    flat = [layer for group in groups for layer in group]
    rows = []
    for score, value in zip(scores, explained, strict=True):
        by_weight = None if method == "rollout" else iter(torch.autograd.grad(value, flat, retain_graph=True))
        gradients = [None if by_weight is None else [next(by_weight) for _ in group] for group in groups]
        encoder, decoder, cross = ([x[0] for x in read_layers(*pair)] for pair in zip(groups, gradients, strict=True))
        to_decoder, to_encoder = crossed(encoder, decoder, cross, method)
        rows.append(torch.cat([to_encoder, to_decoder], 1)[list(score.places)].sum(0))
    return torch.stack(rows), explained.detach()


def _embedded(model: Any, ids: Any, device: torch.device) -> Tensor:
    embedded: Tensor = model.get_input_embeddings()(torch.tensor([list(ids)], device=device))
    return embedded.detach().requires_grad_()


def _weights(model: Any, output: Any, name: str) -> list[Tensor]:
    weights = [layer for layer in getattr(output, name, None) or () if isinstance(layer, Tensor)]
    if not weights:
        raise InvalidInputError(
            f"the {type(model).__name__} returns no attention weights; call model.set_attn_implementation('eager'), or "
            "use explain_generation with AttnLRP for a model without attention"
        )
    return weights

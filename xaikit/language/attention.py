"""explain_attention: what an answer rests on by the model's attention weights, the baselines of the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names
from xaikit.core.model_state import evaluated
from xaikit.core.params import Int
from xaikit.language.answers import generate, read_answer
from xaikit.language.frames import frame_of
from xaikit.language.generation import Generation, with_future
from xaikit.language.prompts import read_prompts
from xaikit.language.scores import AnswerScore, TokenScore, against_ids, read_score, token_scores
from xaikit.language.teacher import check_vocabulary, check_window, is_encoder_decoder

METHODS = ("rollout", "gradient_rollout", "transformer_attribution")


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
    """What each generated token rests on, by the attention weights A of all layers.

    * "rollout": the product over layers of (mean over heads of A + 1) / 2 (Abnar & Zuidema 2020, arXiv:2005.00928). It
      does not depend on the score.
    * "gradient_rollout": the same with (A * dS/dA)+ in place of A, each row divided by its sum.
    * "transformer_attribution": R = R + mean over heads of (A * dS/dA)+ R from layer to layer, beginning with the
      identity (Chefer et al. 2021, arXiv:2103.15679).

    These are baselines to compare with. Attention says where a layer reads, not what it does with what it reads.

    Args:
        model: a causal model of transformers that returns its attention weights: one with
            ``model.set_attn_implementation("eager")``.
        tokenizer: the model's; None where prompt and answer are token ids.
        prompt: a single one, as for `explain_generation`.
        method: one of the three.
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
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"explain_attention takes a model, got a {type(model).__name__}")
    if method not in METHODS:
        raise InvalidInputError(f"method is one of {', '.join(METHODS)}, got {method!r}{near_names(method, METHODS)}")
    if is_encoder_decoder(model):
        raise InvalidInputError(
            f"explain_attention takes causal models, and a {type(model).__name__} has an encoder and a decoder; use "
            "explain_generation with AttnLRP"
        )
    score, seed = read_score(target), Int(ge=0).check(seed, "seed")
    check_vocabulary(model, 0, tokenizer)
    prompts, is_batch = read_prompts(prompt, tokenizer)
    if is_batch:
        raise InvalidInputError(f"explain_attention takes one prompt, got a batch of {len(prompts)}; call it for each")
    single = prompts[0]
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    if generated is None:
        answer = generate(model, single, dict(generation or {}), device=device, seed=seed)
    else:
        answer = read_answer(generated, single, tokenizer, model)
    check_window(model, len(single.ids), len(answer))
    frame = frame_of(single, tokenizer, answer, score)
    first = len(single.ids) - 1
    scores = token_scores(score, first, answer, against_ids(score, answer, tokenizer))
    with evaluated(model, device) as running, torch.enable_grad():
        values, explained = _rows(running, [*single.ids, *answer[:-1]], scores, method, device)
    values = with_future(values, len(frame.tokens)).cpu()
    name = frame.answer or " ".join(frame.generated)
    return dataclasses.replace(
        frame,
        values=values,
        generated=[name] if score.whole_answer else frame.generated,
        scores=explained.cpu(),
        residual=(explained - values.sum(1).to(explained)).cpu(),
        spec={"name": method, "settings": {}},
        generation=None if generated is not None else dict(generation or {}),
        seed=seed,
    )


def _rows(
    model: Any, ids: Sequence[int], scores: Sequence[TokenScore], method: str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The rows of the scores (S, T), and the scores (S,)."""
    output = model(
        inputs_embeds=model.get_input_embeddings()(torch.tensor([list(ids)], device=device)).requires_grad_(),
        output_attentions=True,
        use_cache=False,
    )
    weights = [layer for layer in getattr(output, "attentions", None) or () if isinstance(layer, Tensor)]
    if not weights:
        raise InvalidInputError(
            f"the {type(model).__name__} returns no attention weights; call model.set_attn_implementation('eager'), or "
            "use explain_generation with AttnLRP for a model without attention"
        )
    explained = torch.stack([score.scores(output.logits)[0] for score in scores])
    rows = []
    for score, value in zip(scores, explained, strict=True):
        if method == "rollout":
            layers = [layer[0].detach().mean(0) for layer in weights]
        else:
            gradients = torch.autograd.grad(value, weights, retain_graph=True)
            pairs = zip(weights, gradients, strict=True)
            layers = [(layer.detach() * g)[0].clamp_min(0).mean(0) for layer, g in pairs]
        rows.append(joined_layers(layers, method)[list(score.places)].sum(0))
    return torch.stack(rows), explained.detach()


def joined_layers(layers: Sequence[Tensor], method: str) -> Tensor:
    """The relevance of each token (columns) for each position (rows) of the last layer, (T, T).

    Args:
        layers: what each layer reads, (T, T), the first layer first.
        method: how layers are joined, as of `explain_attention`.
    """
    identity = torch.eye(len(layers[0]), dtype=layers[0].dtype, device=layers[0].device)
    relevance = identity
    for layer in layers:
        if method == "transformer_attribution":
            relevance = relevance + layer @ relevance
            continue
        mixed = layer + identity
        relevance = (mixed / mixed.sum(1, keepdim=True)) @ relevance
    return relevance

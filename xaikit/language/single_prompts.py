"""One prompt and its answer, read: what the functions that take a model, and not an explainer, begin with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.model_device import model_device
from xaikit.core.params import Int
from xaikit.language.answers import generate, read_answer, read_settings
from xaikit.language.frames import frame_of
from xaikit.language.generation import Generation
from xaikit.language.prompts import Prompt, read_prompts
from xaikit.language.scores import AnswerScore, read_score
from xaikit.language.teacher import check_vocabulary, check_window, decoder_start, is_encoder_decoder


@dataclasses.dataclass(frozen=True)
class SinglePrompt:
    """A prompt with its answer.

    Attributes:
        prompt: read.
        answer: ids.
        score: what is explained.
        device: where the model is.
        frame: the generation without values.
        start: the ids with which a decoder begins; empty for a causal model.
    """

    prompt: Prompt
    answer: list[int]
    score: AnswerScore
    device: torch.device
    frame: Generation
    start: list[int]


def read_single(  # noqa: PLR0913
    model: Any,
    tokenizer: Any,
    prompt: Any,
    *,
    caller: str,
    generated: Any,
    generation: Mapping[str, Any] | None,
    target: str | AnswerScore,
    seed: int,
) -> SinglePrompt:
    """A prompt and its answer, which the model generates where the user passes none.

    Args:
        model: the user's.
        tokenizer: the model's, or None.
        prompt: a single one, as for `explain_generation`.
        caller: name of the function that the user called, for messages.
        generated: the answer, as for `explain_generation`.
        generation: arguments of the model's `generate`.
        target: the score of each generated token.
        seed: of the sampling.

    Raises:
        InvalidInputError, InvalidTypeError: for what cannot be read, or does not fit the model.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"{caller} takes a model, got a {type(model).__name__}")
    if generated is not None and generation is not None:
        raise InvalidInputError("pass the answer, generated=, or how the model generates it, generation=, not both")
    score, seed = read_score(target), Int(ge=0).check(seed, "seed")
    check_vocabulary(model, tokenizer=tokenizer)
    prompts, is_batch = read_prompts(prompt, tokenizer)
    if is_batch and len(prompts) != 1:
        raise InvalidInputError(f"{caller} takes one prompt, got a batch of {len(prompts)}; call it for each")
    single = prompts[0]
    device = model_device(model)
    if generated is None:
        answer = generate(model, single, read_settings(generation), device=device, seed=seed)
    else:
        answer = read_answer(generated, single, tokenizer, model)
    check_window(model, len(single.ids), len(answer))
    start = [decoder_start(model)] if is_encoder_decoder(model) else []
    frame = dataclasses.replace(
        frame_of(single, tokenizer, answer, score, start),
        generation=None if generated is not None else dict(generation or {}),
        seed=seed,
    )
    return SinglePrompt(single, answer, score, device, frame, start)

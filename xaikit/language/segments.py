"""explain_segments: what an answer rests on, by leaving segments of the prompt out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError
from xaikit.core.model_device import model_device
from xaikit.core.model_state import evaluated
from xaikit.language.coalition_scores import CoalitionScorer
from xaikit.language.coalitions import Coalition, LeavingOut, attributed, coalitions_of
from xaikit.language.generation import Generation
from xaikit.language.prompts import Prompt
from xaikit.language.scores import AnswerScore, TokenScore, against_ids
from xaikit.language.single_prompts import read_single
from xaikit.language.units import ANSWER, SPECIAL, TEMPLATE, Unit, columns_of


def explain_segments(  # noqa: PLR0913
    model: nn.Module,
    tokenizer: Any,
    prompt: Any,
    *,
    segments: Any = "slots",
    by: str | LeavingOut = "ablation",
    generated: Any = None,
    generation: Mapping[str, Any] | None = None,
    target: str | AnswerScore = "log_probability",
    seed: int = 0,
) -> Generation:
    """What each generated token rests on, by leaving segments out of the prompt: documents, sentences, examples.

    What prompts have in common is computed once, by the model's key-value cache. The rows are those of the generated
    tokens; ``aggregate("tokens", rows="answer")`` adds them up.

    Args:
        model: a causal or an encoder-decoder model of transformers.
        tokenizer: the model's.
        prompt: a single one, as for `explain_generation`.
        segments: "slots" of a `Template`, "sentences", "lines", "words", or spans of the prompt, as for
            `Generation.aggregate`. What a template has between its slots always stays.
        by: "ablation", "occlusion", "shapley", "kernel_shap", or a `LeavingOut` with settings of its own.
        generated: the answer, as for `explain_generation`.
        generation: arguments of the model's `generate`.
        target: the score of each generated token, as for `explain_generation`.
        seed: of random coalitions, and of the sampling.

    Returns:
        A generation whose columns are the segments; `residual` is the score that is left without any segment, where the
        values add up to the rest (shapley, kernel_shap).

    Raises:
        InvalidInputError, InvalidTypeError: for a prompt, an answer or segments that cannot be read.
    """
    text = read_single(
        model, tokenizer, prompt, caller="explain_segments", generated=generated, generation=generation, target=target,
        seed=seed,
    )  # fmt: skip
    settings, frame = LeavingOut(by) if isinstance(by, str) else by, text.frame
    units = columns_of(frame, segments)
    chosen = [unit for unit in units if unit.kind not in (SPECIAL, ANSWER) and unit.name != f"({TEMPLATE})"]
    if not chosen:
        raise InvalidInputError("no segment can be left out of the prompt; name some, segments=")
    coalitions = coalitions_of(settings, len(chosen), seed)
    scores = _scores(model, text.prompt, text.answer, chosen, coalitions, settings, text.score, tokenizer)
    values = attributed(settings, coalitions, scores, seed)
    by_unit = {id(unit): value for unit, value in zip(chosen, values, strict=True)}
    matrix = torch.stack([by_unit.get(id(unit), torch.zeros_like(values[0])) for unit in units], 1)
    spans = [[frame.spans[i] for i in unit.columns] for unit in units]
    return dataclasses.replace(
        frame,
        values=matrix,
        tokens=[unit.name for unit in units],
        kinds=[unit.kind for unit in units],
        n_prompt=sum(unit.columns[0] < frame.n_prompt for unit in units),
        scores=scores[0],
        residual=scores[0] - matrix.sum(1),
        spans=[(min(a for a, _ in places), max(b for _, b in places)) for places in spans],
        ids=None,
        units=segments if isinstance(segments, str) else "spans",
        spec={"name": settings.method, "settings": dataclasses.asdict(settings)},
    )


def _scores(  # noqa: PLR0913, PLR0917
    model: Any,
    prompt: Prompt,
    answer: list[int],
    segments: Sequence[Unit],
    coalitions: Sequence[Coalition],
    settings: LeavingOut,
    score: AnswerScore,
    tokenizer: Any,
) -> Tensor:
    """The score of each generated token under each coalition, (coalitions, G)."""
    owner = {column: i for i, unit in enumerate(segments) for column in unit.columns}
    pieces: list[tuple[list[int], int | None]] = []
    for i, token in enumerate(prompt.ids):
        segment = owner.get(i)
        if pieces and pieces[-1][1] == segment:
            pieces[-1][0].append(token)
        else:
            pieces.append(([token], segment))
    replacement = settings.replacement
    ids = [int(t) for t in tokenizer(replacement, add_special_tokens=False)["input_ids"]] if replacement else []
    against = against_ids(score, answer, tokenizer)
    by_token = TokenScore(score.kind, tuple(range(len(answer))), tuple(answer), tuple(against))
    device = model_device(model)
    with evaluated(model, device) as running:
        scorer = CoalitionScorer(
            running,
            pieces=pieces,
            replacements=ids,
            answer=answer,
            score=lambda logits: by_token.each(logits[None])[0],
            device=device,
        )
        scores = scorer.scores(coalitions).cpu()
    return scores.sum(1, keepdim=True) if score.whole_answer else scores

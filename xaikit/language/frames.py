"""The frame of a generation: names, kinds and places of its rows and columns, before there are values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from xaikit.language.generation import Generation
from xaikit.language.prompts import Prompt
from xaikit.language.scores import AnswerScore
from xaikit.language.token_text import CONTEXT, joined, readable, special_ids, token_texts
from xaikit.language.units import ANSWER, SPECIAL


def frame_of(
    prompt: Prompt, tokenizer: Any, answer: list[int], score: AnswerScore, start: Sequence[int] = ()
) -> Generation:
    """A generation of tokens with zeros in its rows, a single one where the score is that of the whole answer.

    Args:
        prompt: read.
        tokenizer: of Hugging Face; None for ids.
        answer: ids.
        score: what is explained.
        start: ids with which a decoder begins, which stand between prompt and answer.
    """
    before = [*start] or prompt.ids[-CONTEXT:]  # they decide whether the answer begins with a space
    texts = token_texts(tokenizer, [*before, *answer])[len(before) :]
    specials = special_ids(tokenizer)
    text, spans = joined(texts, [token in specials for token in answer], len(prompt.text))
    border = (len(prompt.text), len(prompt.text))
    has_text = tokenizer is not None
    rows = [text or " ".join(texts)] if score.whole_answer else readable(texts)
    kinds = [SPECIAL if token in specials else ANSWER for token in answer]
    return Generation(
        values=torch.zeros(len(rows), len(prompt.ids) + len(start) + len(answer), device="cpu"),
        generated=rows,
        tokens=[*prompt.names, *readable(token_texts(tokenizer, start)), *readable(texts)],
        kinds=[*prompt.kinds, *[SPECIAL] * len(start), *kinds],
        n_prompt=len(prompt.ids) + len(start),
        scores=torch.zeros(len(rows), device="cpu"),
        residual=torch.zeros(len(rows), device="cpu"),
        score=score.described,
        spec={},
        ids=torch.tensor([*prompt.ids, *start, *answer], device="cpu"),
        prompt=prompt.text,
        answer=text if has_text else "",
        spans=[*prompt.spans, *[border] * len(start), *spans] if has_text else [],
        slots=list(prompt.slots) if has_text else [],
    )

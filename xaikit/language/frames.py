"""The frame of a generation: names, kinds and places of its rows and columns, before there are values."""

from __future__ import annotations

from typing import Any

import torch

from xaikit.language.generation import Generation
from xaikit.language.prompts import Prompt
from xaikit.language.scores import AnswerScore
from xaikit.language.token_text import CONTEXT, joined, readable, special_ids, token_texts
from xaikit.language.units import ANSWER, SPECIAL


def frame_of(prompt: Prompt, tokenizer: Any, answer: list[int], score: AnswerScore) -> Generation:
    """A generation of tokens with zeros in its rows.

    Args:
        prompt: read.
        tokenizer: of Hugging Face; None for ids.
        answer: ids.
        score: what is explained.
    """
    texts = token_texts(tokenizer, [*prompt.ids[-CONTEXT:], *answer])[-len(answer) :]
    specials = special_ids(tokenizer)
    text, spans = joined(texts, [token in specials for token in answer], len(prompt.text))
    columns = len(prompt.ids) + len(answer)
    return Generation(
        values=torch.zeros(len(answer), columns),
        generated=readable(texts),
        tokens=[*prompt.names, *readable(texts)],
        kinds=[*prompt.kinds, *[SPECIAL if token in specials else ANSWER for token in answer]],
        n_prompt=len(prompt.ids),
        scores=torch.zeros(len(answer)),
        residual=torch.zeros(len(answer)),
        score=score.described,
        spec={},
        ids=torch.tensor([*prompt.ids, *answer]),
        prompt=prompt.text,
        answer=text if tokenizer is not None else "",
        spans=[*prompt.spans, *spans] if tokenizer is not None else [],
        slots=list(prompt.slots),
    )

"""What is explained of each generated token: its logit, its probability, the entropy, a contrast."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names
from xaikit.core.target_rows import Rows
from xaikit.core.targets import RowTarget

KINDS = ("logit", "log_probability", "probability", "entropy")


@dataclasses.dataclass(frozen=True)
class AnswerScore:
    """What `explain_generation` explains: a score of each generated token, or one of the whole answer.

    Attributes:
        kind: "logit", "log_probability", "probability" (of the generated token), or "entropy" of all tokens there.
        against: what could stand there instead, whose score is subtracted: one token for every position, or one for
            each generated token; as text, or as ids.
        whole_answer: whether the scores of all generated tokens are added up to one.

    >>> AnswerScore("log_probability", whole_answer=True).described
    'log_probability of the whole answer'
    """

    kind: str = "logit"
    against: str | int | Sequence[int] | None = None
    whole_answer: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidInputError(
                f"a score is one of {', '.join(KINDS)}, got {self.kind!r}{near_names(self.kind, KINDS)}"
            )
        if self.kind == "entropy" and self.against is not None:
            raise InvalidInputError("the entropy belongs to no token, so it has no contrast; leave against= out")

    @property
    def described(self) -> str:
        """The score in a few plain terms."""
        contrast = "" if self.against is None else f" against {self.against!r}"
        return f"{self.kind}{contrast}{' of the whole answer' if self.whole_answer else ''}"


def read_score(target: Any) -> AnswerScore:
    """What `target=` means: a kind of score, or an `AnswerScore`.

    Args:
        target: what the user passes.

    Raises:
        InvalidInputError: for an unknown kind.
        InvalidTypeError: for anything else.
    """
    if isinstance(target, AnswerScore):
        return target
    if isinstance(target, str):
        return AnswerScore(target)
    raise InvalidTypeError(
        f"target must be one of {', '.join(KINDS)}, or an AnswerScore(kind, against=, whole_answer=), got {target!r}"
    )


@dataclasses.dataclass(frozen=True)
class TokenScore:
    """The score of generated tokens, added up; it works where a registered target does.

    Attributes:
        kind: as of `AnswerScore`.
        places: along the output (R, T, V), one for each token.
        tokens: their ids.
        against: the ids that are subtracted, one for each token; empty for none.
    """

    kind: str
    places: tuple[int, ...]
    tokens: tuple[int, ...]
    against: tuple[int, ...] = ()
    looks_at_all_heads: bool = False

    def scores(self, output: Tensor, rows: Rows | None = None) -> Tensor:  # noqa: ARG002
        """The score of each row of an output (R, T, V), shape (R,).

        Args:
            output: the logits.
            rows: the samples of the rows, which all have the same score.

        Raises:
            InvalidInputError: for an output of another form.
        """
        if output.ndim != 3:
            raise InvalidInputError(
                f"a model that generates text returns logits (N, T, V), this one returns {tuple(output.shape)}; name "
                "them with head= of the explainer"
            )
        return self.each(output).sum(1)

    def each(self, output: Tensor) -> Tensor:
        """The score of each row and token, (R, tokens).

        Args:
            output: the logits (R, T, V).
        """
        logits = output[:, list(self.places)]
        if self.kind != "logit" and logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if self.kind == "entropy":
            logs = logits.log_softmax(-1)
            return -(logs.exp() * logs).sum(-1)
        values = {"log_probability": torch.log_softmax, "probability": torch.softmax}
        if self.kind != "logit":
            logits = values[self.kind](logits, -1)
        picked = _picked(logits, self.tokens)
        return picked - _picked(logits, self.against) if self.against else picked

    def on(self, device: torch.device) -> RowTarget:
        """The score as the target of a call on one sample."""
        return RowTarget(self, Rows(torch.zeros(1, dtype=torch.long, device=device), 1))


def _picked(values: Tensor, tokens: tuple[int, ...]) -> Tensor:
    index = torch.tensor(tokens, device=values.device)[None, :, None].expand(len(values), -1, 1)
    return values.gather(2, index)[..., 0]


def token_scores(score: AnswerScore, first: int, tokens: Sequence[int], against: Sequence[int]) -> list[TokenScore]:
    """One score for each generated token; a single one where the answer is explained as a whole.

    Args:
        score: what is explained.
        first: the place in the logits that predicts the first generated token.
        tokens: the generated ones.
        against: the ids that are subtracted, one for each; empty for none.
    """
    places = range(first, first + len(tokens))
    if score.whole_answer:
        return [TokenScore(score.kind, tuple(places), tuple(tokens), tuple(against))]
    others: list[tuple[int, ...]] = [(other,) for other in against] or [()] * len(tokens)
    return [
        TokenScore(score.kind, (place,), (token,), other)
        for place, token, other in zip(places, tokens, others, strict=True)
    ]


def against_ids(score: AnswerScore, answer: Sequence[int], tokenizer: Any) -> list[int]:
    """The ids whose scores are subtracted, one for each generated token; none without a contrast.

    Args:
        score: with its contrast.
        answer: ids.
        tokenizer: of Hugging Face; None for ids.

    Raises:
        InvalidInputError: for text that is not one token, or not as many as were generated.
        InvalidTypeError: for what is no token.
    """
    other = score.against
    if other is None:
        return []
    if isinstance(other, str):
        if tokenizer is None:
            raise InvalidInputError("a contrast with text needs a tokenizer; pass against= as a token id")
        ids = [int(token) for token in tokenizer(other, add_special_tokens=False)["input_ids"]]
    elif isinstance(other, int) and not isinstance(other, bool):
        ids = [other]
    elif isinstance(other, (Sequence, Tensor)):
        ids = [int(token) for token in other]
    else:
        raise InvalidTypeError(
            f"against must be a token as text or id, or an id for each generated token, got {other!r}"
        )
    if len(ids) == 1:
        return ids * len(answer)
    if len(ids) != len(answer):
        raise InvalidInputError(
            f"against={other!r} has {len(ids)} tokens and the answer {len(answer)}; pass one token, one for each "
            "generated token, or compare two whole answers with Generation.minus"
        )
    return ids

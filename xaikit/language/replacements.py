"""explain_replacements: what an answer rests on, by replacing random tokens with plausible other ones."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, near_names
from xaikit.core.model_state import evaluated
from xaikit.core.params import Float, Int
from xaikit.language.generation import Generation, with_future
from xaikit.language.scores import AnswerScore, token_scores
from xaikit.language.single_prompts import SinglePrompt, read_single
from xaikit.language.token_text import special_ids
from xaikit.language.units import SPECIAL

SOURCES = ("model", "vocabulary")
ROWS = 16  # changed texts in a forward pass
Proposer = Callable[[Tensor, Tensor, torch.Generator], Tensor]


@dataclasses.dataclass(frozen=True)
class Replacing:
    """How tokens are replaced.

    Attributes:
        proposals: where other tokens come from: "model" draws them from what the explained model itself expects at
            their place, "vocabulary" draws any; or a function of the ids (T,), of which are replaced (B, T), and of a
            torch.Generator, that returns ids (B, T), for example those of a masked language model.
        n_iter: how many changed texts are read.
        share: of the tokens that each of them replaces.

    >>> Replacing("vocabulary", n_iter=50).share
    0.3
    """

    proposals: str | Proposer = "model"
    n_iter: int = 200
    share: float = 0.3

    def __post_init__(self) -> None:
        if not callable(self.proposals) and self.proposals not in SOURCES:
            raise InvalidInputError(
                f"proposals come from {' or '.join(SOURCES)}, or a function, got {self.proposals!r}"
                f"{near_names(str(self.proposals), SOURCES)}"
            )
        Int(ge=1).check(self.n_iter, "n_iter")
        Float(gt=0, lt=1).check(self.share, "share")


def explain_replacements(  # noqa: PLR0913
    model: nn.Module,
    tokenizer: Any,
    prompt: Any,
    *,
    by: str | Replacing = "model",
    generated: Any = None,
    generation: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Generation:
    """What each generated token rests on, by how its probability falls when tokens before it are replaced.

    A random share of the tokens is replaced, again and again. With p the probability of the generated token, and q that
    behind the changed text, each replaced token gets +logit((p - q + 1) / 2), each other one the negative of it. The
    values are the softmax over the tokens of the means of these (ReAGent, Zhao & Shan 2024, arXiv:2402.00794, with a
    fixed number of changed texts, and so a mean, in place of its stopping rule, and by default the explained model in
    place of a RoBERTa). Special tokens stay, and get 0. A changed text serves all generated tokens in one pass. No
    gradient is needed.

    Args:
        model: a causal model of transformers.
        tokenizer: the model's; None where prompt and answer are token ids.
        prompt: a single one, as for `explain_generation`.
        by: "model", "vocabulary", or a `Replacing` with settings.
        generated: the answer, as for `explain_generation`.
        generation: arguments of the model's `generate`.
        seed: of what is replaced and by what, and of the sampling.
        progress: show a progress bar.

    Returns:
        A generation of the probability. Each row adds up to 1, not to the score.

    Raises:
        InvalidInputError, InvalidTypeError: for a model with an encoder, a prompt or an answer that cannot be read.
    """
    settings = by if isinstance(by, Replacing) else Replacing(by)
    score = AnswerScore("probability")
    text = read_single(
        model, tokenizer, prompt, caller="explain_replacements", generated=generated, generation=generation,
        target=score, seed=seed,
    )  # fmt: skip
    if text.start or text.prompt.more:
        kind = "an encoder and a decoder" if text.start else "images"
        raise InvalidInputError(
            f"explain_replacements is made for causal models of text, and this one reads {kind}; use explain_segments "
            "or explain_generation"
        )
    ids = torch.tensor([*text.prompt.ids, *text.answer[:-1]], device="cpu")
    may_change = torch.tensor([kind != SPECIAL for kind in text.frame.kinds[: len(ids)]], device="cpu")
    if not bool(may_change.any()):
        raise InvalidInputError("every token before the answer is a special one, so none can be replaced")
    generator = torch.Generator().manual_seed(seed)
    with (
        tqdm(total=settings.n_iter, disable=not progress, desc="replacements", unit="text") as bar,
        evaluated(model, text.device) as running,
        torch.no_grad(),
    ):
        read = _reader(running, text)
        logits = read(ids[None])
        if logits.ndim != 3:
            raise InvalidInputError(
                f"explain_replacements needs logits of each token, (N, T, V), and this {type(model).__name__} returns "
                f"{tuple(logits.shape)}; use captum.feature_ablation or exact_shapley for a classifier"
            )
        propose = _proposer(settings, logits[0].cpu(), special_ids(tokenizer))
        plain = _probabilities(logits, text)[0]
        sums = torch.zeros(len(text.answer), len(ids), dtype=torch.float64, device="cpu")
        for start in range(0, settings.n_iter, ROWS):
            rows = min(ROWS, settings.n_iter - start)
            is_replaced = _drawn(may_change, rows, settings.share, generator)
            proposed = _checked(propose(ids, is_replaced, generator), is_replaced, logits.shape[-1])
            changed = torch.where(is_replaced, proposed, ids)
            falls = plain - _probabilities(read(changed), text)
            updates = torch.logit((falls + 1) / 2, eps=1e-12)
            sums += updates.T @ (2.0 * is_replaced.double() - 1)
            bar.update(rows)
    before = (
        torch.arange(len(ids), device="cpu")
        < len(text.prompt.ids) + torch.arange(len(text.answer), device="cpu")[:, None]
    )
    counted = before & may_change
    means = (sums / settings.n_iter).masked_fill(~counted, -torch.inf)
    values = torch.where(counted.any(1, keepdim=True), means.softmax(1), 0.0).float()
    scores = plain.float()
    source = settings.proposals if isinstance(settings.proposals, str) else "a function"
    described = {**dataclasses.asdict(settings), "proposals": source}
    return dataclasses.replace(
        text.frame,
        values=with_future(values, len(text.frame.tokens)),
        scores=scores,
        residual=scores - values.sum(1),
        spec={"name": "replacements", "settings": described},
    )


def _reader(model: Any, text: SinglePrompt) -> Callable[[Tensor], Tensor]:
    """The logits (B, T, V) of texts (B, T)."""
    parameters = inspect.signature(model.forward).parameters

    def read(ids: Tensor) -> Tensor:
        ids = ids.to(text.device)
        options: dict[str, Any] = {"use_cache": False} if "use_cache" in parameters else {}
        if "attention_mask" in parameters:
            options["attention_mask"] = torch.ones_like(ids)
        logits: Tensor = model(input_ids=ids, **options).logits
        return logits

    return read


def _probabilities(logits: Tensor, text: SinglePrompt) -> Tensor:
    """The probability of each generated token, (B, G)."""
    first = len(text.prompt.ids) - 1
    scores = token_scores(text.score, first, text.answer, ())
    return torch.stack([score.scores(logits) for score in scores], 1).double().cpu()


def _checked(proposed: Any, is_replaced: Tensor, vocabulary: int) -> Tensor:
    """The ids (B, T) that a function of the user's proposes, where they are some."""
    ids = to_tensor(proposed, "proposals").cpu()
    if ids.is_floating_point() or ids.shape != is_replaced.shape:
        raise InvalidInputError(
            f"proposals must return ids of shape {tuple(is_replaced.shape)}, got {ids.dtype} {tuple(ids.shape)}"
        )
    outside = ids[is_replaced & ((ids < 0) | (ids >= vocabulary))]
    if len(outside):
        raise InvalidInputError(f"proposals must be ids from 0 to {vocabulary - 1}, got {int(outside[0])}")
    return ids


def _drawn(may_change: Tensor, rows: int, share: float, generator: torch.Generator) -> Tensor:
    """Which tokens are replaced, (rows, T): the same number in each row."""
    count = max(1, round(share * int(may_change.sum())))
    order = torch.rand(rows, len(may_change), generator=generator, device="cpu").masked_fill(~may_change, -1)
    is_replaced = torch.zeros(rows, len(may_change), dtype=torch.bool, device="cpu")
    return is_replaced.scatter(1, order.topk(count, dim=1).indices, value=True)


def _proposer(settings: Replacing, logits: Tensor, specials: frozenset[int]) -> Proposer:
    """What draws other tokens for each place; never the token that stands there, and no special one."""
    if callable(settings.proposals):
        return settings.proposals
    expected = torch.zeros_like(logits, dtype=torch.float32)  # any token
    if settings.proposals == "model":
        expected[1:] = logits[:-1].float()  # the first token has none before it
    expected[:, sorted(specials)] = -torch.inf

    def propose(ids: Tensor, is_replaced: Tensor, generator: torch.Generator) -> Tensor:
        others = expected.scatter(1, ids[:, None], -torch.inf).softmax(1)
        return torch.multinomial(others, len(is_replaced), replacement=True, generator=generator).T

    return propose

"""Words of texts, exchanged between them: some words, kinds of words, the first and the last tokens."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.params import Categorical, Int
from xaikit.core.registries import FACTORS
from xaikit.factors.base import ExchangeContext, Factor
from xaikit.factors.exchange import exchanged
from xaikit.factors.facts import TEXT, DataFacts

MARKS = ("##", "Ġ", "▁")  # what tokenizers write before the inside or the beginning of a word


def names_setting(value: Any, where: str) -> tuple[str, ...]:
    """Check a setting that holds names: a text with commas, in brackets or not, or a sequence of texts."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = [part.strip().strip("'\"") for part in value.strip("[]()").split(",")]
    if not isinstance(value, Sequence) or not all(isinstance(name, str) and name for name in value):
        raise InvalidTypeError(f"{where} must be names, such as [first, second], got {value!r}")
    return tuple(value)


class TokenFactor(Factor):
    """Some tokens of texts.

    Whether a text has them, and which, is what is exchanged. Where both texts have some, those of the sample become
    those of the donor, in order, repeated where these are fewer. Where the donor has none, they become what the donor
    has at the same part of its length. Where only the donor has some, they are put there in place of what stands there.
    Padding and special tokens stay, so no text becomes longer.
    """

    KINDS: ClassVar[tuple[str, ...]] = (TEXT,)

    @abc.abstractmethod
    def marked(self, tokens: Tensor, facts: DataFacts) -> Tensor:
        """The tokens of this factor, bool (N, T).

        Args:
            tokens: ids (N, T).
            facts: what is known of the data.
        """

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        facts = context.facts
        ordinary, donor_ordinary = facts.ordinary(x), facts.ordinary(donors)
        inside = self.marked(x, facts) & ordinary
        offered = self.marked(donors, facts) & donor_ordinary
        has, lends = inside.any(1, keepdim=True), offered.any(1, keepdim=True)
        changed = exchanged(x, inside.float(), donors, offered.float())
        positions = _counterparts(ordinary, donor_ordinary)
        changed = torch.where(inside & ~lends, donors.gather(1, positions), changed)
        places = _counterparts(donor_ordinary, ordinary)
        # What is not put anywhere goes into a column that is cut off.
        places = torch.where(offered & ~has, places, x.shape[1])
        return torch.cat([changed, changed[:, :1]], 1).scatter(1, places, donors)[:, :-1]


def _counterparts(ordinary: Tensor, other: Tensor) -> Tensor:
    """For each position of a text the position of the other one at the same part of its length, (N, T)."""
    order = (~other).int().argsort(dim=1, stable=True)  # the ordinary positions of the other text first
    last, other_last = (o.sum(1, keepdim=True) - 1 for o in (ordinary, other))
    rank = (ordinary.cumsum(1) - 1).clamp_min(0)
    target = (rank * other_last.clamp_min(0) / last.clamp_min(1)).round().long()
    return order.gather(1, target)


@FACTORS.register("words")
class Words(TokenFactor):
    """Words by name, or tokens by id.

    >>> Words(names=["text", "video"]).title
    'words text, video'
    >>> Words(names=["of", ","]).title
    'words of, ","'
    """

    names: Annotated[Any, names_setting, "words: [text, video]; they need the vocabulary"] = ()
    ids: Annotated[tuple[int, ...], "token ids, where the words are unknown"] = ()

    def _check_settings(self) -> None:
        if not self.names and not self.ids:
            raise InvalidInputError("the factor 'words' needs some words or tokens, such as words:names=[text, video]")

    @property
    def title(self) -> str:
        """Such as "words text, video"; marks stand in quotes."""
        names = (name if any(c.isalnum() for c in name) else f'"{name}"' for name in self.names)
        listed = [*names, *map(str, self.ids)]
        return f"{'word' if self.names else 'token'}{'s' if len(listed) > 1 else ''} {', '.join(listed)}"

    def marked(self, tokens: Tensor, facts: DataFacts) -> Tensor:
        """The tokens of this factor, bool (N, T).

        Args:
            tokens: ids (N, T).
            facts: what is known of the data.

        Raises:
            InvalidInputError, UnknownNameError: for words that the vocabulary lacks.
        """
        ids = [*self.ids, *(token for name in self.names for token in ids_of(name, facts))]
        return torch.isin(tokens, torch.tensor(ids, dtype=tokens.dtype, device=tokens.device))


def plain_word(word: str) -> str:
    """A word without what its tokenizer writes before it.

    Args:
        word: as it stands in a vocabulary.
    """
    return next((word[len(mark) :] for mark in MARKS if word.startswith(mark)), word)


@functools.lru_cache(maxsize=256)  # a vocabulary is long, and the same words are asked for in every batch
def ids_of(name: str, facts: DataFacts) -> list[int]:
    """The token ids of a word: its own, or else those that differ from it only by what the tokenizer adds.

    Args:
        name: the word.
        facts: with the vocabulary.

    Raises:
        InvalidInputError: without a vocabulary.
        UnknownNameError: for a word that is not in it.
    """
    if facts.vocabulary is None:
        raise InvalidInputError(
            f"the word {name!r} needs the vocabulary, which is unknown; pass facts={{'vocabulary': ...}}, or token ids"
        )
    exact = [token for token, word in facts.vocabulary.items() if word == name]
    alike = [token for token, word in facts.vocabulary.items() if plain_word(word) == name]
    if not exact and not alike:
        raise UnknownNameError(f"the vocabulary has no word {name!r}{near_names(name, facts.vocabulary.values())}")
    return alike or exact


@FACTORS.register("tokens")
class EndTokens(TokenFactor):
    """The first or the last tokens of texts, special ones and padding left out."""

    where: Annotated[str, Categorical("first", "last", search=False), "which end"] = "first"
    count: Annotated[int, Int(ge=1), "how many"] = 1

    @property
    def title(self) -> str:
        """Such as "first token", or "last 3 tokens"."""
        return f"{self.where} token" if self.count == 1 else f"{self.where} {self.count} tokens"

    def marked(self, tokens: Tensor, facts: DataFacts) -> Tensor:
        """Which tokens are meant, bool (N, T).

        Args:
            tokens: ids (N, T).
            facts: what is known of the data.
        """
        ordinary = facts.ordinary(tokens)
        order = ordinary if self.where == "first" else ordinary.flip(1)
        chosen = order & (order.cumsum(1) <= self.count)
        return chosen if self.where == "first" else chosen.flip(1)

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
from xaikit.factors.exchange import exchanged_tokens
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

    Whether a text has them, and which, is what is exchanged: see `exchanged_tokens`. Padding and special tokens stay.
    """

    KINDS: ClassVar[tuple[str, ...]] = (TEXT,)

    @abc.abstractmethod
    def marked(self, tokens: Tensor, facts: DataFacts) -> Tensor:
        """The tokens of this factor, bool (N, T).

        Args:
            tokens: ids (N, T).
            facts: what is known of the data.
        """

    def shows(self, x: Tensor, facts: DataFacts) -> Tensor:
        """Which texts have some of these tokens, bool (N,).

        Args:
            x: ids (N, T).
            facts: what is known of the data.
        """
        return (self.marked(x, facts) & facts.ordinary(x)).any(1)

    def _exchange(self, x: Tensor, donors: Tensor, context: ExchangeContext) -> Tensor:
        facts = context.facts
        ordinary, donor_ordinary = facts.ordinary(x), facts.ordinary(donors)
        inside = self.marked(x, facts) & ordinary
        offered = self.marked(donors, facts) & donor_ordinary
        return exchanged_tokens(x, inside, donors, offered, ordinary, donor_ordinary)


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

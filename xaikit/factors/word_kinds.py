"""Kinds of words of texts (stop words, punctuation, ...), and the words that go most with a class."""

from __future__ import annotations

import string
from collections.abc import Callable
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Categorical, Int
from xaikit.core.registries import FACTORS
from xaikit.factors.base import NUISANCE, Factor, Family
from xaikit.factors.facts import TEXT, DataFacts
from xaikit.factors.words import TokenFactor, Words, plain_word


def _set_of(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _set_of("a an the")
PRONOUNS = _set_of("""
    i you he she it we they me him her us them my your his its our their mine yours hers ours theirs myself yourself
    himself herself itself ourselves yourselves themselves this that these those who whom whose which what
""")
STOP_WORDS = ARTICLES | PRONOUNS
STOP_WORDS |= _set_of("""
    and or but if as at by for from in into of off on onto out over to under up upon with about after before during
    between through until while than then so such is am are was were be been being has have had having do does did
    doing can could may might must shall should will would there here when where how all any both each few more most
    other some own same
""")
KINDS: dict[str, Callable[[str], bool]] = {
    "stop_words": lambda word: word.lower() in STOP_WORDS,
    "articles": lambda word: word.lower() in ARTICLES,
    "pronouns": lambda word: word.lower() in PRONOUNS,
    "punctuation": lambda word: (
        bool(word)
        and all(c in string.punctuation or not c.isascii() for c in word)
        and not any(c.isalnum() for c in word)
    ),
    "digits": lambda word: any(c.isdigit() for c in word),
    "capitals": lambda word: any(c.isupper() for c in word),
}


@FACTORS.register("word_kind")
class WordKind(TokenFactor):
    """English stop words, articles or pronouns; punctuation; words with digits or capitals.

    Negations are no stop words here, since they change what a text says.
    """

    nature = NUISANCE
    kind: Annotated[str, Categorical(*KINDS, search=False), "which kind"] = "stop_words"

    @property
    def title(self) -> str:
        """Such as "stop words"."""
        return {"digits": "words with digits", "capitals": "words with capitals"}.get(
            self.kind, self.kind.replace("_", " ")
        )

    def applies(self, x: Tensor, facts: DataFacts) -> bool:
        """Whether the words are known and the texts have some of this kind.

        Args:
            x: token ids.
            facts: what is known of them.
        """
        return super().applies(x, facts) and facts.vocabulary is not None and bool(self.marked(x, facts).any())

    def marked(self, tokens: Tensor, facts: DataFacts) -> Tensor:
        """Which tokens are meant, bool (N, T).

        Args:
            tokens: ids (N, T).
            facts: what is known of the data.

        Raises:
            InvalidInputError: without a vocabulary.
        """
        if facts.vocabulary is None:
            raise InvalidInputError(
                f"{self.title} are told from other words by the vocabulary, which is unknown; pass "
                "facts={'vocabulary': ...}"
            )
        is_meant = KINDS[self.kind]
        ids = [token for token in tokens.unique().tolist() if is_meant(plain_word(facts.vocabulary.get(token, "")))]
        return torch.isin(tokens, torch.tensor(ids, dtype=tokens.dtype, device=tokens.device))


@FACTORS.register("telling_words")
class TellingWords(Family):
    """The words that go most with a class in the data, each by itself, and the strongest of them together.

    How much a word goes with a class: the mutual information of the class and of whether a text has the word. Those
    with at least half of the largest one count as the strongest.
    """

    KINDS: ClassVar[tuple[str, ...]] = (TEXT,)

    count: Annotated[int, Int(ge=1), "how many words"] = 10

    def members(self, x: Tensor, y: Tensor, facts: DataFacts) -> tuple[Factor, ...]:
        """`Words` for the strongest together, and for each of the most telling words.

        Args:
            x: samples of all classes.
            y: their classes.
            facts: what is known of the data.
        """
        ids, information = telling_tokens(x, y, facts)
        if not ids:
            return ()
        strongest = [i for i, value in zip(ids, information, strict=True) if value >= information[0] / 2]
        groups = [strongest[: self.count]] if len(strongest) > 1 else []
        return tuple(self._words(group, facts) for group in (*groups, *([i] for i in ids[: self.count])))

    def _words(self, ids: list[int], facts: DataFacts) -> Factor:
        if facts.vocabulary is None or any(i not in facts.vocabulary for i in ids):
            return Words(ids=tuple(ids), nature=self.nature)
        return Words(names=tuple(facts.vocabulary[i] for i in ids), nature=self.nature)


def telling_tokens(x: Tensor, y: Tensor, facts: DataFacts) -> tuple[list[int], list[float]]:
    """Tokens by the mutual information of the class and of whether a text has the token, most first, in nats.

    Args:
        x: token ids (N, T).
        y: classes (N,).
        facts: what is known of the data.
    """
    tokens = torch.where(facts.ordinary(x), x, -1)
    present, place = tokens.unique(return_inverse=True)
    has = torch.zeros(len(x), len(present), dtype=torch.float64, device="cpu").scatter_(1, place, 1.0)
    classes = y.unique()
    member = (y[:, None] == classes).double()
    joint = torch.stack([member.T @ has, member.T @ (1 - has)]) / len(x)
    expected = joint.sum(0, keepdim=True) * joint.sum(1, keepdim=True)
    terms = torch.where(joint > 0, joint * (joint / expected.clamp_min(1e-300)).log(), torch.zeros_like(joint))
    information = terms.sum((0, 1))
    order = [i for i in information.argsort(descending=True).tolist() if int(present[i]) >= 0]
    return [int(present[i]) for i in order], [float(information[i]) for i in order]

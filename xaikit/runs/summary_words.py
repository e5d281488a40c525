"""Words counted over texts, with the relevance of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from xaikit.core.errors import InvalidInputError
from xaikit.runs.summary_tables import WordRelevance

CONTINUES = "##"  # before a piece that goes on with a word (WordPiece)
BEGINS = ("Ġ", "▁")  # before a piece that begins a word (byte-level BPE, SentencePiece)


class WordCounts:
    """Sums over the texts that were added.

    Args:
        tokens: from token ids to strings; None for the ids themselves.
        padding: id or text of the padding token; None for a repeated last token without relevance.
        join: pieces of a word are one word.
    """

    def __init__(
        self, tokens: Callable[[Sequence[int]], Sequence[str]] | None, padding: int | str | None, *, join: bool
    ) -> None:
        self._tokens, self._padding, self._join = tokens, padding, join
        self._sums: dict[str, list[float]] = {}  # count, texts, positive, negative
        self._n = 0

    def add(self, ids: Sequence[int], weights: Sequence[float], mask: Sequence[int] | None = None) -> None:
        """Count a text.

        Args:
            ids: of its tokens.
            weights: their relevance.
            mask: 0 at padding; None where the inputs have none.

        Raises:
            InvalidInputError: where `tokens` gives another number of strings than ids.
        """
        texts = [str(i) for i in ids] if self._tokens is None else [str(t) for t in self._tokens(ids)]
        if len(texts) != len(ids):
            raise InvalidInputError(f"tokens must give {len(ids)} strings for as many ids, got {len(texts)}")
        if mask is None and self._padding is None:
            end = unpadded_length(ids, weights)
            rows = list(zip(texts[:end], weights[:end], strict=True))
        else:
            stays = [True] * len(ids) if mask is None else [bool(m) for m in mask]
            if self._padding is not None:
                stays = [s and self._padding not in (i, t) for s, i, t in zip(stays, ids, texts, strict=True)]
            rows = [(t, w) for t, w, s in zip(texts, weights, stays, strict=True) if s]
        self._n += 1
        seen_words = set()
        for word, weight in _joined(rows) if self._join and self._tokens is not None else rows:
            sums = self._sums.setdefault(word, [0, 0, 0.0, 0.0])
            sums[0] += 1
            sums[1] += word not in seen_words
            sums[2] += max(weight, 0.0)
            sums[3] += min(weight, 0.0)
            seen_words.add(word)

    def result(self) -> WordRelevance:
        """The words, those with the most relevance of both signs together first."""
        ranked = sorted(self._sums.items(), key=lambda item: (item[1][3] - item[1][2], item[0]))
        return WordRelevance(
            tuple(word for word, _ in ranked),
            tuple(int(sums[0]) for _, sums in ranked),
            tuple(int(sums[1]) for _, sums in ranked),
            torch.tensor([sums[2] / sums[0] for _, sums in ranked], dtype=torch.float64, device="cpu"),
            torch.tensor([sums[3] / sums[0] for _, sums in ranked], dtype=torch.float64, device="cpu"),
            self._n,
        )


def unpadded_length(ids: Sequence[int], weights: Sequence[float]) -> int:
    """The length of a text without its padding: the last token, repeated, with a relevance of zero.

    Args:
        ids: of the tokens.
        weights: their relevance.
    """
    end = len(ids)
    while end > 1 and ids[end - 1] == ids[-1] and weights[end - 1] == 0:
        end -= 1
    # A single token at the end is no padding, even if its relevance is zero.
    return end if len(ids) - end > 1 else len(weights)


def _joined(rows: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """Words with their relevance, of pieces with theirs; special tokens such as [SEP] stand alone."""
    marked = any(text.startswith(BEGINS) for text, _ in rows)
    joined: list[tuple[str, float]] = []
    glues = False  # whether the piece before may go on
    for text, weight in rows:
        special = (text[:1], text[-1:]) in (("[", "]"), ("<", ">")) and len(text) > 2
        goes_on = text.startswith(CONTINUES) and len(text) > 2
        if marked:
            goes_on = not text.startswith(BEGINS)
        if goes_on and glues and not special:
            before, sum_before = joined[-1]
            joined[-1] = (before + text.removeprefix(CONTINUES), sum_before + weight)
        else:
            joined.append((text.lstrip("".join(BEGINS)) or text, weight))
        glues = not special
    return joined

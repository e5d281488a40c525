"""The text of tokens: how each reads, and which characters of a text it stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONTEXT = 4  # tokens before one that decide how it decodes (spaces of a sentence piece, bytes of one character)
UNFINISHED = "\ufffd"  # what the first bytes of a character decode to
Span = tuple[int, int]


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of a tokenizer's special tokens; none without a tokenizer."""
    return frozenset(getattr(tokenizer, "all_special_ids", ()) or ())


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """How each token reads, with the space before it; special tokens by their names, ids without a tokenizer.

    A character that several tokens share stands in the last of them; the others are empty.

    Args:
        tokenizer: of Hugging Face, or None.
        ids: of the tokens.
    """
    if tokenizer is None:
        return [str(token) for token in ids]
    special = special_ids(tokenizer)
    texts: list[str] = []
    since = 0  # the first token after the last special one, which decodes to a name and ends what stands before
    for i, token in enumerate(ids):
        if token in special:
            texts.append(str(tokenizer.convert_ids_to_tokens([token])[0]))
            since = i + 1
            continue
        before = _decode(tokenizer, ids[max(since, i - CONTEXT) : i])
        after = _decode(tokenizer, ids[max(since, i - CONTEXT) : i + 1])
        texts.append(after[len(before) :] if after.startswith(before) else _decode(tokenizer, [token]))
    return texts


def _decode(tokenizer: Any, ids: Sequence[int]) -> str:
    if not ids:
        return ""
    text = str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return text.rstrip(UNFINISHED)


def readable(texts: Sequence[str]) -> list[str]:
    """Texts of tokens with a sign for those that are empty."""
    return [text or UNFINISHED for text in texts]


def joined(texts: Sequence[str], specials: Sequence[bool], start: int = 0) -> tuple[str, list[Span]]:
    """The text of tokens, and the characters of each in it; special tokens have none.

    Args:
        texts: how each token reads.
        specials: which of them are special.
        start: where the text begins in a longer one.
    """
    text, spans = "", []
    for piece, special in zip(texts, specials, strict=True):
        begin = start + len(text)
        text += "" if special else piece
        spans.append((begin, start + len(text)))
    return text, spans

"""Units: tokens joined to words, sentences, lines, spans of the text, or slots of a template."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names
from xaikit.language.token_text import Span

if TYPE_CHECKING:
    from xaikit.language.generation import Generation

SPECIAL, TEMPLATE, ANSWER = "special", "template", "answer"


class Unit(NamedTuple):
    """Columns that are added up to one.

    Attributes:
        name: how the unit reads.
        kind: as of the columns of a `Generation`.
        columns: which they are, in order.
    """

    name: str
    kind: str
    columns: tuple[int, ...]


def columns_of(generation: Generation, units: Any) -> list[Unit]:
    """The units of all columns, the prompt's first; each column is in one of them.

    Args:
        generation: whose columns are tokens.
        units: as for `Generation.aggregate`.

    Raises:
        InvalidInputError: for unknown units, units of a text that is not known, spans that overlap or leave gaps.
        InvalidTypeError: for anything else.
    """
    if isinstance(units, str) and units in BORDERS:
        return list(_between(generation, BORDERS[units]))
    if isinstance(units, str) and units != "slots":
        choices = ["tokens", *BORDERS, "slots"]
        raise InvalidInputError(
            f"units are one of {', '.join(choices)}, or spans, got {units!r}{near_names(units, choices)}"
        )
    if units == "slots":
        if not generation.slots:
            raise InvalidInputError("the prompt has no slots; pass it as a Template, or units= as spans")
        return _of_spans(generation, generation.slots, other=TEMPLATE)
    return _of_spans(generation, read_spans(units, generation.prompt), other=None)


# ---------------------------------------------------------------------- by the text between tokens


# What a text ends with where a unit ends, before the first letter of the next.
BORDERS: Mapping[str, re.Pattern[str]] = {
    "words": re.compile(r"\s$"),
    "sentences": re.compile(r"([.!?\u3002\uff01\uff1f][\"')\]\u201d\u2019]*\s+|\n\s*)$"),
    "lines": re.compile(r"\n\s*$"),
}


def _between(generation: Generation, end: re.Pattern[str]) -> Iterator[Unit]:
    """Runs of columns without a border; special tokens are units of their own."""
    text, spans, kinds = _text_of(generation), generation.spans, generation.kinds
    run: list[int] = []
    for i, kind in enumerate(kinds):
        core = _core(text, spans[i])
        if run:
            last = kinds[run[-1]]
            so_far = text[_core(text, spans[run[0]])[0] : core[0]]
            starts_anew = core[0] < core[1] and end.search(so_far) is not None
            if SPECIAL in (kind, last) or kind != last or starts_anew:
                yield _unit(generation, run, text)
                run = []
        run.append(i)
    if run:
        yield _unit(generation, run, text)


def _core(text: str, span: Span) -> Span:
    """The characters of a token without the spaces around it; an empty span at its end for a token of spaces."""
    piece = text[span[0] : span[1]]
    indent = len(piece) - len(piece.lstrip())
    return (span[0] + indent, span[0] + len(piece.rstrip())) if piece.strip() else (span[1], span[1])


def _unit(generation: Generation, columns: Sequence[int], text: str) -> Unit:
    first, last = columns[0], columns[-1]
    kind = generation.kinds[first]
    name = generation.tokens[first] if kind == SPECIAL else text[generation.spans[first][0] : generation.spans[last][1]]
    return Unit(name, kind, tuple(columns))


def _text_of(generation: Generation) -> str:
    if not generation.spans:
        raise InvalidInputError("without a tokenizer there is no text, so only units='tokens' is possible; pass one")
    if generation.units != "tokens":
        raise InvalidInputError(f"this generation is in {generation.units} already; aggregate the one of tokens")
    return generation.prompt + generation.answer


# ---------------------------------------------------------------------- by spans


def read_spans(spans: Any, text: str) -> list[tuple[str, int, int]]:
    """Spans of a text by name, in the order of the text.

    Args:
        spans: a list of (first, behind the last) characters, or of texts that stand in the text once, or a dict of
            either by name.
        text: the prompt's.

    Raises:
        InvalidInputError: for a span outside the text, an empty one, text that is not there once, spans that overlap.
        InvalidTypeError: for anything else.
    """
    if isinstance(spans, Mapping):
        pairs: list[tuple[Any, Any]] = list(spans.items())
    elif isinstance(spans, Sequence) and not isinstance(spans, str):
        pairs = [(None, span) for span in spans]
    else:
        raise InvalidTypeError(f"units must be a name, a list of spans, or a dict of them, got {spans!r}")
    places = []
    for name, span in pairs:
        start, end = _located(span, text)
        places.append((text[start:end].strip() if name is None else str(name), start, end))
    places.sort(key=lambda place: place[1])
    for (name, _, end), (other, start, _) in zip(places, places[1:], strict=False):
        if start < end:
            raise InvalidInputError(
                f"spans must not overlap, and {name[:30]!r} ends at {end}, behind the start {start} of {other[:30]!r}; "
                "a token belongs to one unit"
            )
    if not places:
        raise InvalidInputError("units hold no span; pass at least one")
    return places


def _located(span: Any, text: str) -> Span:
    if isinstance(span, str):
        count = text.count(span) if span else 0
        if count != 1:
            raise InvalidInputError(f"{span[:40]!r} stands {count} times in the prompt; pass its (start, end)")
        return text.index(span), text.index(span) + len(span)
    try:
        start, end = (int(place) for place in span)
    except (TypeError, ValueError):
        raise InvalidTypeError(
            f"a span is (start, end) in characters of the prompt, or its text, got {span!r}"
        ) from None
    if not 0 <= start < end <= len(text):
        raise InvalidInputError(
            f"a span lies in the prompt's {len(text)} characters and is not empty, got ({start}, {end})"
        )
    return start, end


def _of_spans(generation: Generation, spans: Sequence[tuple[str, int, int]], other: str | None) -> list[Unit]:
    """Units of spans of the prompt, then what the spans leave out, special tokens, and the answer as one.

    Raises:
        InvalidInputError: where the spans leave out text, and `other` has no name for it.
    """
    text = _text_of(generation)
    members: dict[str, list[int]] = {}
    kinds: dict[str, str] = {}
    for i, (kind, span) in enumerate(zip(generation.kinds, generation.spans, strict=True)):
        is_answer = i >= generation.n_prompt
        name = (
            f"({ANSWER if is_answer else SPECIAL})"
            if is_answer or kind == SPECIAL
            else _owner(_core(text, span), spans)
        )
        if name is None and other is None and not text[span[0] : span[1]].strip():
            name = next(reversed(members), None) or _owner((span[1], span[1] + 1), spans)
        if name is None and other is None:
            raise InvalidInputError(
                f"the spans leave out {text[span[0] : span[1]]!r} at {span[0]}, so the sums would change; add "
                "a span for it"
            )
        name = f"({other})" if name is None else name
        members.setdefault(name, []).append(i)
        kinds.setdefault(name, ANSWER if is_answer else kind)
    last = [f"({other})", f"({SPECIAL})", f"({ANSWER})"]
    order = sorted(members, key=lambda name: last.index(name) if name in last else -1)
    return [Unit(name, kinds[name], tuple(members[name])) for name in order]


def _owner(core: Span, spans: Sequence[tuple[str, int, int]]) -> str | None:
    """The span in which most of a token lies, the first of equals; None for none."""
    shares = [(min(core[1], end) - max(core[0], start), name) for name, start, end in spans]
    best = max(shares, key=lambda share: share[0])
    return best[1] if best[0] > 0 else None

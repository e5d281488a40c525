"""Generations joined: their tokens to units, two of the same prompt to a contrast."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.language.units import ANSWER, BORDERS, Unit, columns_of

if TYPE_CHECKING:
    from xaikit.language.generation import Generation

ALTERNATIVE = "alternative"  # the kind of a column of the answer that was not preferred


def aggregated(generation: Generation, units: Any, rows: Any) -> Generation:
    """The generation with its columns, and its rows, added up to units.

    Args:
        generation: of tokens.
        units: as for `Generation.aggregate`.
        rows: likewise.

    Raises:
        InvalidInputError, InvalidTypeError: as `columns_of`.
    """
    columns = _tokens(generation) if units == "tokens" else columns_of(generation, units)
    row_units = _row_units(generation, rows if rows is not None else units if _is_named(units) else "tokens")
    values = _summed(_summed(generation.values, columns, 1), row_units, 0)
    is_text = bool(generation.spans)
    spans = [_span(generation, unit) for unit in columns] if is_text else []
    return dataclasses.replace(
        generation,
        values=values,
        generated=[unit.name for unit in row_units],
        tokens=[unit.name for unit in columns],
        kinds=[unit.kind for unit in columns],
        n_prompt=sum(unit.columns[0] < generation.n_prompt for unit in columns),
        scores=_summed(generation.scores, row_units, 0),
        residual=_summed(generation.residual, row_units, 0),
        spans=spans,
        ids=generation.ids if units == "tokens" else None,
        units=units if isinstance(units, str) else "spans",
    )


def _is_named(units: Any) -> bool:
    return isinstance(units, str) and units in BORDERS


def _tokens(generation: Generation) -> list[Unit]:
    pairs = zip(generation.tokens, generation.kinds, strict=True)
    return [Unit(text, kind, (i,)) for i, (text, kind) in enumerate(pairs)]


def _row_units(generation: Generation, rows: Any) -> list[Unit]:
    """The units of the rows, each with the rows that it adds up.

    Raises:
        InvalidInputError: for other units than tokens, words, sentences, lines, or the answer as one.
    """
    count = len(generation.generated)
    single = [Unit(text, ANSWER, (i,)) for i, text in enumerate(generation.generated)]
    if rows == "tokens" or count == 1:
        return single
    if rows == ANSWER:
        text = generation.answer or " ".join(generation.generated)
        return [Unit(text, ANSWER, tuple(range(count)))]
    if not _is_named(rows):
        raise InvalidInputError(f"rows are one of tokens, {', '.join(BORDERS)} or answer, got {rows!r}")
    shifted = []
    for name, kind, columns in columns_of(generation, rows):
        if columns[0] >= generation.n_prompt:
            shifted.append(Unit(name, kind, tuple(i - generation.n_prompt for i in columns)))
    return shifted


def _summed(values: Tensor, units: list[Unit], dim: int) -> Tensor:
    parts = [values.index_select(dim, torch.tensor(unit.columns, device="cpu")).sum(dim) for unit in units]
    return torch.stack(parts, dim)


def _span(generation: Generation, unit: Unit) -> tuple[int, int]:
    spans = [generation.spans[i] for i in unit.columns]
    return min(start for start, _ in spans), max(end for _, end in spans)


def contrasted(preferred: Generation, other: Generation) -> Generation:
    """Why one answer and not the other: a single row, the difference of the sums of both.

    Args:
        preferred: the answer whose score counts positively.
        other: the answer to the same prompt whose score is subtracted.

    Raises:
        InvalidInputError: for two prompts, two scores, or two explainers.
    """
    n = preferred.n_prompt
    if n != other.n_prompt or preferred.tokens[:n] != other.tokens[:n]:
        raise InvalidInputError("a contrast is one of two answers to the same prompt; these prompts differ")
    if (preferred.score, preferred.spec) != (other.score, other.spec):
        raise InvalidInputError(
            f"a contrast needs one score and one explainer, got the {preferred.score} by {preferred.spec.get('name')} "
            f"and the {other.score} by {other.spec.get('name')}"
        )
    first, second = preferred.values.sum(0), other.values.sum(0)
    values = torch.cat([first[:n] - second[:n], first[n:], -second[n:]])[None]
    length, shift = len(preferred.prompt), len(preferred.answer)
    spans = [(start + shift, end + shift) if start >= length else (start, end) for start, end in other.spans[n:]]
    return dataclasses.replace(
        preferred,
        values=values,
        generated=[f"{preferred.answer or 'the answer'} - {other.answer or 'the other'}"],
        tokens=[*preferred.tokens, *other.tokens[n:]],
        kinds=[*preferred.kinds, *[ALTERNATIVE] * (len(other.tokens) - n)],
        scores=(preferred.scores.sum() - other.scores.sum())[None],
        residual=(preferred.residual.sum() - other.residual.sum())[None],
        score=f"{preferred.score} of one answer less that of another",
        answer=preferred.answer + other.answer,
        spans=[*preferred.spans, *spans],
        ids=None if preferred.ids is None or other.ids is None else torch.cat([preferred.ids, other.ids[n:]]),
        gap=None,
        absorbed=None,
        lost=None,
    )

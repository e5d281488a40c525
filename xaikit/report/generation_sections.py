"""Sections of a report about an explained answer: what each of its tokens rests on, and the matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xaikit.report.generation_figures import matrix_figure
from xaikit.report.html import Picture, Table

if TYPE_CHECKING:
    from xaikit.language.generation import Generation

MOST = 3  # columns that a row names
LONGEST_PROMPT = 600  # letters of a prompt on the page


def generation_sections(generation: Generation, *, title: str = "Generated answer") -> list[Table | Picture]:
    """A row for each generated token with what it rests on most, and the matrix as a picture.

    Args:
        generation: what `explain_generation` returned, or another function of `xaikit.language`.
        title: of the first section, and before that of the other.

    Returns:
        A table and a picture.
    """
    rows: list[dict[str, Any]] = []
    for i, text in enumerate(generation.generated):
        most = [f"{_visible(name)} {value:.3g}" for name, value in generation.top(MOST, i) if value > 0]
        rows.append(
            {
                "generated": _visible(text),
                "score": float(generation.scores[i]),
                "rests on most": ", ".join(most) or "nothing counts for it",
                "not in the row": float(generation.residual[i]),
            }
        )
    method = str(generation.spec.get("name"))
    answer = generation.answer.strip() or " ".join(generation.generated)
    first, *_ = [*generation.top(1), ("", 0.0)]
    conclusion = f"The answer {answer!r} rests most on {_visible(first[0])} ({method})." if first[1] > 0 else ""
    note = f"Explained is the {generation.score}, by {method}."
    if generation.prompt:
        prompt = generation.prompt
        short = prompt if len(prompt) <= LONGEST_PROMPT else f"{prompt[:LONGEST_PROMPT]}..."
        note += f' Prompt: "{short}". Answer: "{answer}".'
    description = (
        f"A matrix of {len(generation.generated)} generated {generation.units} (rows) and the {len(generation.tokens)} "
        f"{generation.units} of prompt and answer (columns); red counts for a token, blue against it."
    )
    return [
        Table(title, rows, note, conclusion=conclusion),
        Picture(f"{title}: matrix", matrix_figure(generation), description),
    ]


def _visible(text: str) -> str:
    """A token on one line, in quotation marks, where the spaces around it would be lost."""
    return f'"{" ".join(text.split())}"' if text.strip() else repr(text)

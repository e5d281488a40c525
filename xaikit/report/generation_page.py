"""The page of an explained generation: point at a generated token, or click it, to see what it rests on."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from xaikit.core.percentages import percent
from xaikit.report.html import PAGE, template_of

if TYPE_CHECKING:
    from xaikit.language.generation import Generation

DIGITS = 4  # of each number on the page


def page_of(generation: Generation, *, title: str = "What the answer rests on") -> str:
    """The page as text; it needs no network.

    Args:
        generation: what to show.
        title: of the page.

    Raises:
        MissingDependencyError: without jinja2.
    """
    page: str = template_of("generation.html").render(
        title=title,
        style=(PAGE / "report.css").read_text(encoding="utf-8"),
        own_style=(PAGE / "generation.css").read_text(encoding="utf-8"),
        script=(PAGE / "generation.js").read_text(encoding="utf-8"),
        facts=_facts(generation),
        data=json.dumps(_data(generation)).replace("<", "\\u003c"),  # no text can end the script
    )
    return page


def _data(generation: Generation) -> dict[str, Any]:
    values = generation.values.double().cpu().tolist()
    return {
        "values": [[_short(value) for value in row] for row in values],
        "tokens": generation.tokens,
        "kinds": generation.kinds,
        "generated": generation.generated,
        "scores": [_short(score) for score in generation.scores.double().tolist()],
        "prompt": generation.n_prompt,
        "aligned": len(generation.generated) == len(generation.tokens) - generation.n_prompt,
    }


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else 0.0


def _facts(generation: Generation) -> dict[str, str]:
    total = float(generation.scores.double().abs().sum()) or 1.0
    beside = float(generation.residual.double().abs().sum()) / total
    facts = {
        "Explained": generation.score,
        "Method": str(generation.spec.get("name")),
        "Rows, columns": f"{len(generation.generated)} {generation.units}, {len(generation.tokens)}",
        "Not in the rows": f"{percent(beside)} of the scores",
    }
    if generation.lost:
        facts["Lost"] = ", ".join(f"{name} {value:.2g}" for name, value in generation.lost.items())
    return facts

"""`xaikit demo`: a model that is right for the wrong reasons, seen, measured and mended."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Folder for figures, results and weights.")] = Path("xaikit-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer epochs and trials: rougher, in half the time.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of split, weights, order and noise.")] = 0,
) -> None:
    """Explain, tune and mend a model that a planted shortcut fools (real digits, about two minutes).

    Example: `xaikit demo --out xaikit-demo`
    """
    import json

    from xaikit.cli import demo_story

    plan = demo_story.Plan(seed=seed)
    if quick:
        plan = dataclasses.replace(plan, epochs=10, trials=4)
    out.mkdir(parents=True, exist_ok=True)
    results = demo_story.tell(plan, out)
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")

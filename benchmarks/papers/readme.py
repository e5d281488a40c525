"""The tables of results/ in README.md, which every benchmark brings up to date."""

from __future__ import annotations

import re

from benchmarks.papers.color_mnist import ColorMnist
from benchmarks.papers.compas import Compas
from benchmarks.papers.decoy_cnn import DecoyCnn
from benchmarks.papers.decoy_mnist import DecoyMnist
from benchmarks.papers.harness import HERE, Results, markdown, table
from benchmarks.papers.sst import SstArticles, SstDecoy, SstGender

PAGE = HERE / "README.md"
ALL = (Compas, DecoyMnist, DecoyCnn, SstDecoy, SstArticles, SstGender, ColorMnist)


def page(text: str) -> str:
    """The page with every table between its markers as the results have it."""
    for kind in ALL:
        results = Results(HERE / "results" / f"{kind.NAME}.json", kind.VERSION)
        shown = markdown(kind, table(results)) if results.chosen else "No results yet."
        pattern = re.compile(f"(<!-- {kind.NAME} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = pattern.subn(lambda m, shown=shown: f"{m[1]}\n{shown}\n\n{m[2]}", text)
        if found != 1:
            raise SystemExit(f"{PAGE.name} must hold the markers of {kind.NAME} once, it does {found} times")
    return text


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))

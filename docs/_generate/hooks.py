"""What MkDocs builds the site of, beside the pages in docs/: everything that the code itself can say.

`on_config` puts the generated pages into the navigation, `on_files` adds them, `on_page_markdown` fills in tables and
turns links to files outside docs/ into links to their pages.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import example_report
import explainer_pages
import formulas
import reference_pages
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
# Files that live elsewhere in the repository and have a page here.
OUTSIDE = {
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/papers/README.md": "papers.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
}
LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_config(config: Any) -> Any:
    """Fill in the parts of the navigation that are lists of what is registered."""
    made = {"explainers": explainer_pages.navigation, "api": reference_pages.navigation}
    config.nav = [
        {title: made[item]() if isinstance(item, str) and item in made else item for title, item in entry.items()}
        for entry in config.nav
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages and figures."""
    pages: dict[str, str | bytes] = {**explainer_pages.pages(), **reference_pages.pages()}
    pages |= {page: (ROOT / path).read_text(encoding="utf-8") for path, page in OUTSIDE.items() if page != "index.md"}
    pages["report-example.html"] = example_report.page()
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in tables; a link to a file outside docs/ leads to its page."""
    markdown = markdown.replace("<!-- explainers -->", explainer_pages.overview(up="explainers/"))
    if "<!-- penalties -->" in markdown:
        markdown = markdown.replace("<!-- penalties -->", formulas.penalties())
    up = "../" * page.file.src_uri.count("/")
    home = next((Path(path).parent for path, name in OUTSIDE.items() if name == page.file.src_uri), Path("docs"))

    def there(match: re.Match[str]) -> str:
        link, anchor = match[1], match[2] or ""
        if "://" in link:
            return match[0]
        folder = home if page.file.src_uri in OUTSIDE.values() else Path("docs", page.file.src_uri).parent
        target = _normal(folder / link)
        known = OUTSIDE.get(target)
        if known is None and target.startswith("docs/"):
            known = target.removeprefix("docs/")
        return match[0] if known is None else f"{up}{known}{anchor}"

    return LINK.sub(there, markdown)


def _normal(path: Path) -> str:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts[-1:] = []
        elif part != ".":
            parts.append(part)
    return "/".join(parts)

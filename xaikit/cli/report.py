"""`xaikit report`: one HTML page of what was explained, measured, tuned and mended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from xaikit.cli.job import Job, argument, flag


class WriteReport(Job):
    """Write one self-contained HTML page about a run, or about several runs over the same data, side by side.

    \b
    Examples:
      xaikit report run/ --out report.html
      xaikit report run-lrp/ run-vargrad/ --classes cat,dog --title "Cats and dogs"
    """  # noqa: D301

    VERB = "report"

    runs: tuple[Path, ...] = argument(metavar="RUN...", help="Folders that xaikit explain --data wrote.")
    out: Path = flag(Path("report.html"), help="The page.")
    title: str = flag("Explanations", help="Of the page.")
    classes: str = flag("", help="Names of the classes: cat,dog; or a file with a name on each line.")
    features: str = flag("", help="Names of a table's columns, or of a series' channels: likewise.")
    tokenizer: str = flag("", help="hf:FOLDER whose tokenizer turns token ids into words.")
    kind: str = flag("", help="image, series, tabular or text; else by the form of the samples.")
    limit: int = flag(500, help="Most samples shown.")
    table: tuple[Path, ...] = flag((), help="A .json that evaluate or tune wrote, shown as a table; repeat it.")

    def run(self) -> int:
        """Read the runs, write the page."""
        from xaikit.core.errors import InvalidInputError
        from xaikit.report import Names, Report
        from xaikit.runs import load_run

        if not self.runs:
            raise InvalidInputError("name at least one run")
        report = Report(
            runs=[load_run(folder) for folder in self.runs],
            title=self.title,
            names=Names(_words(self.classes), _words(self.features), _tokens(self.tokenizer)),
            kind=self.kind or None,
            sections=[_table(path) for path in self.table],
            limit=self.limit,
        )
        path = report.save(self.out)
        typer.echo(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB)")
        return 0


def _words(text: str) -> list[str]:
    path = Path(text)
    if text and path.is_file():
        return path.read_text(encoding="utf-8").splitlines()
    return [word.strip() for word in text.split(",")] if text else []


def _tokens(name: str) -> Any:
    if not name:
        return None
    from xaikit.cli.models import tokenizer_of
    from xaikit.core.errors import InvalidInputError

    tokenizer = tokenizer_of(name)
    if tokenizer is None:
        raise InvalidInputError(f"--tokenizer {name} holds no tokenizer; name a folder as hf:FOLDER")
    return tokenizer.convert_ids_to_tokens


def _table(path: Path) -> Any:
    """A table of a .json that holds rows: a list of objects, or an object with `rows` or `trials`."""
    from xaikit.core.errors import InvalidInputError
    from xaikit.report import Table

    if not path.is_file():
        raise InvalidInputError(f"no such file: {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as err:
        raise InvalidInputError(f"{path} is not JSON ({err})") from None
    rows = content.get("rows") or content.get("trials") if isinstance(content, dict) else content
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InvalidInputError(f"{path} holds no rows to show")
    return Table(
        path.stem, [{k: v if not isinstance(v, (dict, list)) else json.dumps(v) for k, v in r.items()} for r in rows]
    )

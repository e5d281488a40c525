"""`xaikit summary`: what the explanations of a run have in common, as tables and pictures."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaikit.cli.job import Job, argument, flag

if TYPE_CHECKING:
    from xaikit.runs import Summary

STRONGEST = 5  # names that are printed
MOST_LEAVES = 30  # columns that clustered bars show


class SummariseRun(Job):
    """Summarise a run over its samples: the mean map of each class; of tables the relevance of each column; of texts that of each word.

    Writes tables (.csv; mean maps of pictures as .npz) and pictures (.png) into a folder. Tables also get their
    columns in clusters whose relevance goes together, and the dependence of the relevance on the value for --column.

    \b
    Examples:
      xaikit summary run/
      xaikit summary run-lrp/ --kind image --out summary-lrp
    """  # noqa: D301, E501

    VERB = "summary"

    folder: Path = argument(metavar="RUN", help="Folder that xaikit explain --data wrote.")
    out: Path = flag(Path("summary"), help="Folder for the tables and pictures.")
    of_class: str = flag("", help="Only samples of which this class, a number or a name, was explained.")
    column: tuple[str, ...] = flag((), help="Of tables: draw the dependence for this column; may be repeated.")
    sample: tuple[int, ...] = flag((), help="Of tables: draw the waterfall of this sample; may be repeated.")
    kind: str = flag("", help="image, series, tabular or text. Default: by the form of the samples.")
    features: str = flag("", help="Names of columns or channels: age,sex; or a file with one on each line.")
    tokenizer: str = flag("", help="hf:FOLDER with the tokenizer of the texts. Default: the run's.")

    def run(self) -> int:
        """Read the run, write the tables."""
        from xaikit.cli.hugging_face import tokenizer_of
        from xaikit.cli.options import check_kind
        from xaikit.cli.report import comma_list
        from xaikit.core.errors import InvalidInputError
        from xaikit.runs import Summary, load_run

        if self.out.exists() and not self.out.is_dir():
            raise InvalidInputError(f"--out {self.out} is a file; name a folder")
        check_kind(self.kind)
        run = load_run(self.folder)
        tokenizer = tokenizer_of(self.tokenizer or run.display_names.get("tokenizer", ""))
        if self.tokenizer and tokenizer is None:
            raise InvalidInputError(f"--tokenizer {self.tokenizer} holds no tokenizer; name a folder as hf:FOLDER")
        summary = Summary(
            run,
            kind=self.kind or None,
            of_class=self.of_class or None,
            features=comma_list(self.features) or None,
            tokens=None if tokenizer is None else tokenizer.convert_ids_to_tokens,
        )
        if (self.column or self.sample) and summary.kind != "tabular":
            raise InvalidInputError(f"--column and --sample are for tables, and {self.folder} holds {summary.kind}")
        padding = None if tokenizer is None else tokenizer.pad_token
        tables = self._tables(summary, padding)  # before anything is written
        self.out.mkdir(parents=True, exist_ok=True)
        written = [str(path) for name, table in tables.items() for path in self._written(name, table)]
        strongest = _strongest(tables)
        text = f"summary of {summary.n} samples in {self.out}{f'; strongest: {strongest}' if strongest else ''}"
        self.tell(text, written=written, samples=summary.n, strongest=strongest)
        return 0

    def _tables(self, summary: Summary, padding: str | None) -> dict[str, Any]:
        """The tables by the names of their files."""
        if summary.kind == "text":
            return {"words": summary.words(padding=padding)}
        tables: dict[str, Any] = {}
        if summary.explains_classes:
            tables["classes"] = summary.class_maps()
        if summary.kind == "image":
            return tables
        tables["columns"] = columns = summary.columns()
        if len(columns.names) > 1 and columns.n > 1:
            tables["clusters"] = summary.clusters()
        for column in self.column:
            key = int(column) if column.isdecimal() and column not in columns.names else column
            tables[f"dependence-{_file_name(column)}"] = summary.dependence(key)
        return tables | {f"sample-{index}": summary.waterfall(index) for index in self.sample}

    def _written(self, name: str, table: Any) -> list[Path]:
        """The files of a table: its numbers and its picture."""
        from xaikit.core.files import write_whole

        paths = []
        if name == "classes" and table.means.ndim > 2:
            paths.append(table.save(self.out / f"{name}.npz"))
        else:
            text, columns = io.StringIO(), table.by_column()
            lines = csv.writer(text, lineterminator="\n")
            lines.writerow(columns)
            lines.writerows(zip(*columns.values(), strict=True))
            paths.append(write_whole(self.out / f"{name}.csv", text.getvalue()))
        if name != "clusters" or len(table.names) <= MOST_LEAVES:
            paths.append(self.out / f"{name}.png")
            table.plot().savefig(paths[-1], dpi=150)
        return paths


def _strongest(tables: dict[str, Any]) -> str:
    """The columns or words with the most relevance."""
    if "words" in tables:
        table = tables["words"]
        rows = list(zip(table.names, table.mean.tolist(), strict=True))
    elif "columns" in tables:
        columns = tables["columns"]
        sizes = columns.mean_size.tolist()
        order = sorted(range(len(sizes)), key=lambda j: -sizes[j])
        rows = [(columns.names[j], sizes[j]) for j in order]
    else:
        return ""
    return ", ".join(f"{name} ({value:.3g})" for name, value in rows[:STRONGEST])


def _file_name(text: str) -> str:
    """A text that can be part of a file's name everywhere."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in text)

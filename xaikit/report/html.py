"""Report: results about a model as one HTML file, which a browser shows without a network connection."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from xaikit.core.errors import InvalidInputError, InvalidTypeError, MissingDependencyError
from xaikit.core.files import write_whole
from xaikit.core.percentages import percent
from xaikit.core.renames import renamed_arguments, renamed_attribute
from xaikit.report import pictures
from xaikit.report.cards import drawn, kind_of, only_array, part_names, scale_of
from xaikit.report.columns import columns_figure, description_of
from xaikit.report.conclusion import Digest
from xaikit.report.names import Names
from xaikit.report.packing import packed
from xaikit.report.side_by_side import (
    accuracy,
    check_same_inputs,
    check_same_samples,
    model_rows,
    models,
    run_labels,
    verdicts,
)
from xaikit.runs import ExplainedSample, Run

PAGE = Path(__file__).parent / "page"
MOST_SAMPLES = 10_000
DRAWN_AT_ONCE = 60  # cards; a browser draws the others as they come near the screen
HELD_TOGETHER = 20  # cards in one packed text of the page, of those that are not drawn at once
LONG = 40  # letters; a table with longer cells is shown as cards on a phone
FRAME = 'style="width: 100%; height: 45rem; border: 0"'  # of a report in a notebook


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a report.

    Attributes:
        title: its heading.
        rows: one dict for each row; the columns are their keys, in the order of the first appearance.
        note: what the numbers mean.
        shares: whether the fractional numbers are shares, shown in per cent.
        conclusion: what it comes to, one sentence, shown at the top of the page.
    """

    title: str
    rows: Sequence[Mapping[str, Any]]
    note: str = ""
    shares: bool = False
    conclusion: str = ""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(dict.fromkeys(str(key) for row in self.rows for key in row))


@dataclasses.dataclass(frozen=True)
class Picture:
    """A matplotlib figure of a report.

    Attributes:
        title: its heading.
        figure: the matplotlib figure.
        description: what it shows, for readers who cannot see it.
    """

    title: str
    figure: Any
    description: str

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            raise renamed_attribute("Picture", name, {"words": "description"})


Picture.__init__ = renamed_arguments(words="description")(Picture.__init__)  # type: ignore[method-assign]


@dataclasses.dataclass(frozen=True)
class Report:
    """One self-contained page: summary, tables, figures, and the explained samples.

    Attributes:
        runs: runs over the same data, one for each explainer; they stand side by side.
        title: of the page.
        names: of classes, features and tokens. Names of classes and features that are left out come from the first run.
        kind: "image", "series", "tabular" or "text"; None chooses it by the shape of the samples.
        sections: tables and figures between the summary and the samples.
        limit: most samples shown, evenly spread over the data.
        progress: show a progress bar while the samples are drawn.

    >>> Report(title="Nothing yet").html().startswith("<!doctype html>")
    True
    """

    runs: Sequence[Run] = ()
    title: str = "Explanations"
    names: Names = dataclasses.field(default_factory=Names)
    kind: str | None = None
    sections: Sequence[Table | Picture] = ()
    limit: int = MOST_SAMPLES
    progress: bool = False

    def __post_init__(self) -> None:
        for run in self.runs:
            if not isinstance(run, Run):
                raise InvalidTypeError(f"a report shows runs (see load_run), got {type(run).__name__}")
        for section in self.sections:
            if not isinstance(section, (Table, Picture)):
                raise InvalidTypeError(f"a section is a Table or a Picture, got {type(section).__name__}")
        check_same_samples(self.runs)
        run_names = self.runs[0].display_names if self.runs else {}
        called = {key: getattr(self.names, key) or run_names.get(key, ()) for key in ("classes", "features")}
        object.__setattr__(self, "names", dataclasses.replace(self.names, **called))

    def save(self, path: str | Path) -> Path:
        """Write the page, whole or not at all.

        Args:
            path: a name that ends in .html.

        Returns:
            The path.

        Raises:
            InvalidInputError: for another ending.
            OSError: when the disk refuses.
        """
        path = Path(path)
        if path.suffix not in (".html", ".htm"):
            raise InvalidInputError(f"a report is saved as .html, got {path.name!r}")
        return write_whole(path, self.html())

    def html(self) -> str:
        """The page as text.

        Raises:
            InvalidInputError: for samples of several tensors, or ones that differ between the runs.
            MissingDependencyError: without jinja2.
        """
        digest = Digest(self.runs, run_labels(self.runs))
        cards = list(self._cards(digest))
        verdicts_of_sections = [s.conclusion for s in self.sections if isinstance(s, Table) and s.conclusion]
        colouring = pictures.colouring()
        return template_of("report.html").render(
            title=self.title,
            style=(PAGE / "report.css").read_text(encoding="utf-8"),
            script="".join((PAGE / name).read_text(encoding="utf-8") for name in ("packed.js", "report.js")),
            made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            conclusion=[text[:1].upper() + text[1:] for text in (*verdicts_of_sections, *digest.sentences())],
            facts=self._facts(len(cards)),
            sections=[_section(s) for s in (*self._models(), *self._columns(digest), *self.sections)],
            explainers=run_labels(self.runs),
            cards=cards,
            drawn_at_once=DRAWN_AT_ONCE,
            order_facts=_order_facts(cards[DRAWN_AT_ONCE:]),
            held_together=HELD_TOGETHER,
            any_signed=any(drawing.get("signed") for card in cards for drawing in card["maps"]),
            any_gap=any(drawing["gap"] is not None for card in cards for drawing in card["maps"]),
            any_waterfall=any("start" in bar for card in cards for m in card["maps"] for bar in m.get("bars", ())),
            shared_scale=len(models(self.runs)) > 1,
            classes=sorted({c["label"] or c["predicted"] for c in cards} - {""}),
            colouring=colouring,
            bars={name: _bar(colouring[name]) for name in ("signed", "unsigned")},
        )

    def _models(self) -> list[Table]:
        """The models side by side, where the runs are of several."""
        if len(models(self.runs)) < 2:
            return []
        note = "Each model's accuracy is its own, over the samples that have a label."
        return [Table("Models", model_rows(self.runs), note)]

    def _columns(self, digest: Digest) -> list[Picture]:
        """The relevance of each column of a table, a figure for each run."""
        pages = []
        for label, (values, inputs) in digest.tables().items():
            by = f", {label}" if len(self.runs) > 1 else ""
            names = list(self.names.features)
            figure = columns_figure(values, inputs, names, narrow=True)
            pages.append(Picture(f"Relevance of each column{by}", figure, description_of(values, names)))
        return pages

    def _facts(self, n_shown: int) -> dict[str, str]:
        if not self.runs:
            return {}
        first = self.runs[0]
        weights = ", ".join(hashed[:12] for hashed in models(self.runs))
        facts = {
            "model": f"{first.job['model']}, weights {weights}",
            "explained": ", ".join(run_labels(self.runs)),
            "samples": f"{len(first)} of {first.job['samples']}, {n_shown} shown",
        }
        share = accuracy(first)
        if share is not None and len(models(self.runs)) == 1:
            facts["accuracy"] = f"{percent(share[0])} of {share[1]} samples with a label"
        if first.skipped:
            reasons = "; ".join(list(first.skipped.values())[:3])
            facts["unreadable"] = f"{len(first.skipped)} ({reasons}{', ...' if len(first.skipped) > 3 else ''})"
        facts["seed"] = str(first.job["seed"])
        facts["made with"] = ", ".join(f"{k} {v}" for k, v in first.versions.items())
        return facts

    def _cards(self, digest: Digest) -> Iterator[dict[str, Any]]:
        if not self.runs:
            return
        first = self.runs[0]
        places = [{index: place for place, index in enumerate(run.indices)} for run in self.runs]
        common = [index for index in first.indices if all(index in place for place in places)]
        if len(common) > self.limit:
            common = [common[i * len(common) // self.limit] for i in range(self.limit)]
        side = pictures.side_of(len(common) * (1 + len(self.runs)))
        for index in tqdm(common, desc="report", unit="sample", disable=not self.progress):
            yield self._card([run[place[index]] for run, place in zip(self.runs, places, strict=True)], side, digest)

    def _card(self, samples: list[ExplainedSample], side: int, digest: Digest) -> dict[str, Any]:
        first = samples[0]
        inputs = next((s.inputs for s in samples if s.inputs is not None), None)
        inputs = None if inputs is None else only_array(inputs, "inputs")
        values = [only_array(s.values, "values") for s in samples]
        kind = self.kind or kind_of(values[0], inputs)
        check_same_inputs(samples)
        digest.add(kind, values, samples, part_names(kind, values[0], inputs, self.names), inputs)
        agreement = digest.agreement(kind, values)
        scales = self._scales(kind, values)
        # A score of its own ends the waterfall of a row; the rows of several models share a scale, as bars.
        ends = [s.score if s.gap is not None and len(models(self.runs)) == 1 else None for s in samples]
        per_model = verdicts(self.runs, samples, self.names)
        return {
            "index": first.index,
            "name": first.name or f"sample {first.index}",
            "kind": kind,
            "label": per_model[0]["label"],
            "predicted": per_model[0]["predicted"],
            "verdicts": per_model,
            "target": self.names.of_class(first.target),
            "score": first.score,
            "right": per_model[0]["right"],
            "gap": max((abs(s.gap) for s in samples if s.gap is not None), default=None),
            "disagreement": None if agreement is None else 1 - agreement,
            "input": pictures.photograph(inputs, side) if kind == "image" and inputs is not None else "",
            "maps": [
                {
                    "explainer": name,
                    "gap": sample.gap,
                    **drawn(kind, value, inputs, self.names, side=side, scale=scale, score=end),
                }
                for name, sample, value, scale, end in zip(
                    run_labels(self.runs), samples, values, scales, ends, strict=True
                )
            ],
        }

    def _scales(self, kind: str, values: Sequence[Any]) -> list[float]:
        """Where the colours of each map end: at one value for the maps of one explainer, whose models are compared."""
        own = [scale_of(kind, value) for value in values]
        explainers = [run.job["explainer"] for run in self.runs]
        return [max(s for s, e in zip(own, explainers, strict=True) if e == explainer) for explainer in explainers]

    def _repr_html_(self) -> str:
        # In a frame, so that neither the page's style nor its script touches the notebook.
        return f'<iframe srcdoc="{escape(self.html())}" title="{escape(self.title)}" {FRAME}></iframe>'


def template_of(page: str) -> Any:
    """The template of a page; everything that is filled in is escaped.

    Args:
        page: its file in the folder `page`.

    Raises:
        MissingDependencyError: without jinja2.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as err:
        raise MissingDependencyError("a report needs jinja2: pip install 'xaikit[report]'") from err
    loader = jinja2.FileSystemLoader(PAGE)
    # Everything that comes from data or file names is escaped; only our own style and script are not.
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["packed"] = lambda text: Markup(packed(str(text)))  # letters that no markup is made of
    environment.filters["number"] = _number
    environment.filters["share"] = lambda value: percent(value) if isinstance(value, float) else _number(value)
    environment.filters["breakable"] = lambda name: Markup("_<wbr>").join(str(name).split("_"))
    return environment.get_template(page)


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return "" if value is None else str(value)
    # Commas help to read numbers from ten thousand on; smaller ones may be seeds or rows.
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else f"{value:.4g}"


def _section(section: Table | Picture) -> dict[str, Any]:
    if isinstance(section, Picture):
        width = round(96 * section.figure.get_figwidth())  # CSS counts 96 pixels to an inch
        picture = pictures.drawing(section.figure)
        return {"title": section.title, "picture": picture, "words": section.description, "width": width}
    columns = section.columns
    rows = [[row.get(column) for column in columns] for row in section.rows]
    long = [isinstance(cell, str) and len(cell) > LONG for row in rows for cell in row]
    return {
        "title": section.title,
        "columns": columns,
        "rows": rows,
        "note": section.note,
        "long": LONG,
        "stacked": any(long) and len(columns) > 2,
        "shares": section.shares,
    }


def _order_facts(cards: Sequence[Mapping[str, Any]]) -> str:
    """What a page finds, filters and orders the cards by that it has not drawn, as JSON.

    A list for each fact, since a browser keeps lists of numbers in a fifth of the memory of as many rows. No name ends
    the element that it stands in: "<" is written as JSON may write it.
    """
    columns = {key: [card[key] for card in cards] for key in ("name", "index", "right", "score", "gap", "disagreement")}
    columns["group"] = [card["label"] or card["predicted"] for card in cards]
    finite = {k: [None if isinstance(v, float) and not isfinite(v) else v for v in c] for k, c in columns.items()}
    return json.dumps(finite, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")


def _bar(tables: list[str]) -> str:
    """The tables of red, green and blue as a CSS gradient."""
    stops = zip(*([255 * float(v) for v in table.split()] for table in tables), strict=True)
    return ", ".join(f"rgb({r:.0f},{g:.0f},{b:.0f})" for r, g, b in stops)

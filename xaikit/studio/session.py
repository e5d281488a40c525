"""Session: an open studio. Its runs, their catalogues, the marks and the jobs; what the page asks is answered here."""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xaikit.core.errors import InvalidInputError
from xaikit.files.marks import MarkFolder, MarkKey, Positions, from_runs, to_runs
from xaikit.report import Names, pictures
from xaikit.report.cards import kind_of
from xaikit.runs import ExplainedSample
from xaikit.runs.single_rows import SingleRows
from xaikit.studio.catalogue import ORDERS, Catalogue
from xaikit.studio.job_forms import FORMS, form_of
from xaikit.studio.jobs import Jobs
from xaikit.studio.marks import MarkEditor
from xaikit.studio.measures import Measure
from xaikit.studio.results import result_of
from xaikit.studio.sample_cards import (
    drawn_maps,
    facts_of,
    input_picture,
    mark_shape,
    only_array,
    parts_of,
    position_weights,
)
from xaikit.studio.suggestions import MOST_SAMPLES, above, in_common, place_of

MOST_CARDS = 120  # of one answer
STUDIO, MARKS = "studio", "marks"


class Session:
    """What the server works with.

    Args:
        runs: folders of runs over the same data, one for each explainer.
        names: of classes, columns and tokens.
        marks: folder of the marks; None takes ``marks`` in the first run's folder.
        template: fields of the job files: the model, the data; empty for looking and marking only.
        explain: fields of the job that explains the samples again.

    Raises:
        InvalidInputError: for folders that hold no run, runs without a sample, marks of other samples.
    """

    def __init__(
        self,
        runs: Sequence[Path],
        names: Names,
        *,
        marks: Path | None = None,
        template: Mapping[str, Any] | None = None,
        explain: Mapping[str, Any] | None = None,
    ) -> None:
        self.runs = [SingleRows(folder) for folder in runs]
        self.home = self.runs[0].folder / STUDIO
        self.catalogues = [Catalogue(run, run.folder / STUDIO / "index.sqlite") for run in self.runs]
        called = self.runs[0].display_names
        self.names = Names(
            list(names.classes or called.get("classes", ())),
            list(names.features or called.get("features", ())),
            names.tokens,
            names.padding,
        )
        first = self._first()
        inputs = None if first.inputs is None else only_array(first.inputs, "inputs")
        values = only_array(first.values, "values")
        self.kind, self.shape = kind_of(values, inputs), mark_shape(kind_of(values, inputs), values)
        self.columns = parts_of(self.kind, values, inputs, self.names) if self.kind == "tabular" else []
        self.has_inputs = inputs is not None
        self.labels = _labels(self.runs)
        self.marks = MarkEditor(MarkFolder.begin(marks or self.runs[0].folder / MARKS, self.kind, self.shape))
        self.jobs = Jobs(self.home / "jobs", template or {}, self.runs[0].folder, explain or {})
        self.measure = Measure(self)
        self._after: tuple[str, SingleRows, Catalogue] | None = None
        self._stop = threading.Event()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Bring the marks up to their history, and index the runs in a thread."""
        self.marks.recover()
        threading.Thread(target=self._index, daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()

    def _index(self) -> None:
        try:
            for catalogue in self.catalogues:
                catalogue.fill(self._stop)
        except Exception as err:  # the page must go on with what there is
            warnings.warn(f"the index stopped: {err}", stacklevel=1)

    def _first(self) -> ExplainedSample:
        run = self.runs[0]
        for number in run.numbers():
            if run.rows(number):
                self.catalogues[0].add(number) if number in self.catalogues[0].missing()[:1] else None
                return run.sample(number, 0)
        raise InvalidInputError(f"{run.folder} holds no explained sample")

    def state(self) -> dict[str, Any]:
        """What the page must know of the run as a whole."""
        catalogue = self.catalogues[0]
        job = self.runs[0].job
        values = {name: catalogue.values_of(name) for name in ("label", "predicted", "folder", "cluster")}
        classes = {
            name: [{"value": v, "name": self.names.of_class(v)} for v in values[name]]
            for name in ("label", "predicted")
        }
        return {
            "run": self.runs[0].folder.name,
            "model": job["model"],
            "samples": job["samples"],
            "kind": self.kind,
            "shape": list(self.shape),
            "inputs": self.has_inputs,
            "explainers": self.labels,
            "columns": self.columns,
            "indexed": catalogue.progress,
            "filters": {**classes, "folder": values["folder"], "cluster": values["cluster"]},
            "orders": [o for o in ORDERS if self._has_order(o)],
            "jobs": self.jobs.can_start,
            "forms": {verb: form_of(verb) for verb in FORMS} if self.jobs.can_start else {},
            "marked": self._counts(),
            "colours": pictures.colouring(),
            "measure": self.measure.progress(),
            "marks": str(self.marks.folder.path),
        }

    def _has_order(self, order: str) -> bool:
        column = {"wrong": "label"}.get(order, ORDERS[order][0].removeprefix("abs(").rstrip(")"))
        return (
            order in ("position", "region", "-region")
            or (order == "disagreement" and len(self.runs) > 1)
            or (order != "disagreement" and self.catalogues[0].has(column))
        )

    def _counts(self) -> dict[str, dict[str, int]]:
        """How many marks there are of each meaning and scope."""
        folder = self.marks.folder
        return {
            meaning: {scope: sum(1 for _ in folder.files(meaning, scope)) for scope in ("all", "class", "sample")}
            for meaning in ("must-not-matter", "must-matter")
        }

    def cards(
        self, filters: Sequence[tuple[str, str, Any]], order: str, start: int, count: int, *, side: int, one_scale: bool,
        after: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """Some samples of the gallery, and how many pass the filters."""
        total, rows = self.catalogues[0].query(filters, order, max(0, start), min(count, MOST_CARDS))
        return {"total": total, "cards": [self.card(row, side=side, one_scale=one_scale, after=after) for row in rows]}

    def card(self, row: Mapping[str, Any], *, side: int, one_scale: bool, after: str = "") -> dict[str, Any]:
        """One sample with its input and its maps."""
        samples = list(self.samples_of(row))
        mended = self._mended_sample(after, row) if after else None
        maps = samples if mended is None else [samples[0], ("after", mended), *samples[1:]]
        inputs = self._inputs([sample for _, sample in samples])
        together = (0, 1) if mended is not None else ()
        drawn = drawn_maps(self.kind, maps, inputs, self.names, side=side, one_scale=one_scale, together=together)
        card = {
            **facts_of(row, self.names),
            "kind": self.kind,
            "input": input_picture(self.kind, inputs, side),
            "maps": drawn,
        }
        if mended is not None:
            card["after"] = {
                "predicted": self.names.of_class(mended.predicted),
                "right": None if row["label"] is None else mended.predicted == row["label"],
                "changed": mended.predicted != row["predicted"],
            }
        return card

    def detail(self, position: int, *, side: int, one_scale: bool, after: str = "") -> dict[str, Any]:
        """One sample in full, with the names of its parts and the sizes of their relevance."""
        row = self.catalogues[0].at(position)
        card = self.card(row, side=side, one_scale=one_scale, after=after)
        _, sample = next(self.samples_of(row))
        values, inputs = only_array(sample.values, "values"), self._inputs([sample])
        parts = parts_of(self.kind, values, inputs, self.names)
        weights = position_weights(self.kind, values)
        extra: dict[str, Any] = {"parts": parts, "shape": list(mark_shape(self.kind, values))}
        if self.kind == "text" and inputs is not None:
            extra["ids"] = inputs.tolist()
        if self.kind in ("text", "tabular"):
            signed = values.reshape(len(values), -1).sum(1) if self.kind == "text" else values.reshape(-1)
            extra["weights"] = [float(v) for v in np.nan_to_num(signed)]
        if self.kind == "tabular" and inputs is not None:
            extra["values"] = [float(v) for v in np.nan_to_num(inputs.reshape(-1).astype(float))]
        if self.kind == "series":
            extra["weights"] = [float(v) for v in weights]
        return {**card, **extra}

    def samples_of(self, row: Mapping[str, Any]) -> Iterator[tuple[str, ExplainedSample]]:
        """The sample in each run; a run that explained another sample of that number is left out."""
        yield self.labels[0], self.runs[0].sample(row["shard"], row["row"])
        for label, run, catalogue in zip(self.labels[1:], self.runs[1:], self.catalogues[1:], strict=True):
            other = catalogue.of_sample(row["sample"])
            if other is not None and _is_same(row, other):
                yield label, run.sample(other["shard"], other["row"])

    def marked(self, row: Mapping[str, Any], sample: ExplainedSample) -> Any:
        """What must not matter of a sample, by all marks: bool, of the shape of its marks."""
        label = row["target"] if row["label"] is None else row["label"]
        ids = self._inputs([sample]) if self.kind == "text" else None
        return self.marks.folder.union("must-not-matter", row["name"] or f"sample {row['sample']}", label, ids)

    def _inputs(self, samples: Sequence[ExplainedSample]) -> Any:
        kept = next((sample.inputs for sample in samples if sample.inputs is not None), None)
        return None if kept is None else only_array(kept, "inputs")

    def mark_key(self, meaning: str, scope: str, position: int) -> tuple[MarkKey, dict[str, Any]]:
        """Which mark is meant at a sample, and the facts of the sample for its file.

        Raises:
            InvalidInputError: for a mark that there cannot be.
        """
        row = self.catalogues[0].at(position)
        if scope == "sample":
            name = row["name"] or f"sample {row['sample']}"
            facts = {"name": name, "sample": row["sample"], "fingerprint": row["fingerprint"]}
            return MarkKey(meaning, scope, name), facts
        if scope == "class":
            label = row["target"] if row["label"] is None else row["label"]
            if label is None:
                raise InvalidInputError("these samples have no classes; mark this sample, or all")
            return MarkKey(meaning, scope, str(label)), {"class": self.names.of_class(label)}
        return MarkKey(meaning, scope), {}

    def suggest(self, content: Mapping[str, Any], filters: Sequence[tuple[str, str, Any]]) -> list[int]:
        """The runs of a suggested mark: by a threshold of a sample, of what the filtered samples share, by a factor."""
        way, threshold = content.get("by"), content.get("threshold", 0.5)
        if way == "factor":
            return to_runs(self._factor(str(content.get("job", "")), content.get("number")))
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool):
            raise InvalidInputError(f"the threshold is a number, got {str(threshold)[:20]!r}")
        if way == "sample":
            _, sample = next(self.samples_of(self.catalogues[0].at(_whole(content.get("position"), "the position"))))
            return to_runs(above(position_weights(self.kind, only_array(sample.values, "values")), threshold))
        if way == "common":
            if self.kind == "text":
                raise InvalidInputError("texts have no places in common; take a threshold of this text")
            return to_runs(above(in_common(self._maps(filters)), threshold))
        raise InvalidInputError("a suggestion is by 'sample', 'common' or 'factor'")

    def _maps(self, filters: Sequence[tuple[str, str, Any]]) -> Iterator[Any]:
        _, rows = self.catalogues[0].query(filters, "position", 0, MOST_SAMPLES)
        for row in rows:
            weights = position_weights(self.kind, only_array(next(self.samples_of(row))[1].values, "values"))
            if weights.shape == self.shape:
                yield weights

    def _factor(self, job: str, number: Any) -> Positions:
        import json

        effects = json.loads((self.jobs.home(job) / "scan.json").read_text(encoding="utf-8")).get("effects", [])
        if not isinstance(number, int) or not 0 <= number < len(effects):
            raise InvalidInputError(f"the scan has no factor {str(number)[:20]}")
        positions = place_of(effects[number]["spec"], self.shape)
        if positions is None:
            raise InvalidInputError("this factor is no place of a picture")
        return positions

    def result(self, job: str) -> dict[str, Any]:
        """What a job found."""
        about = self.jobs.describe(job)
        if not about["result"]:
            raise InvalidInputError(f"job {job} has no result yet")
        return result_of(self.jobs.home(job), about["verb"], self.names)

    def show_after(self, job: str) -> dict[str, int]:
        """Put the predictions of a mended model beside those of the run, for filters; how many changed."""
        run, _ = self._mended(job)
        main = self.catalogues[0]
        with self._lock:
            marker = self.home / "after.txt"
            if not marker.is_file() or marker.read_text() != job:
                main.clear("after")
                for number in run.numbers():
                    main.set_values("after", [(r["predicted"], r["index"]) for r in run.rows(number)], key="sample")
                marker.write_text(job)
        counts = {name: main.query([("after", name, None)], count=0)[0] for name in ("changed", "mended", "broken")}
        return {**counts, "samples": main.query(count=0)[0]}

    def _mended(self, job: str) -> tuple[SingleRows, Catalogue]:
        with self._lock:
            if self._after is None or self._after[0] != job:
                run = SingleRows(self.jobs.home(job) / "run")
                catalogue = Catalogue(run, self.jobs.home(job) / "index.sqlite")
                catalogue.fill(self._stop)
                self._after = (job, run, catalogue)
            return self._after[1:]

    def _mended_sample(self, job: str, row: Mapping[str, Any]) -> ExplainedSample | None:
        run, catalogue = self._mended(job)
        other = catalogue.of_sample(row["sample"])
        return None if other is None or not _is_same(row, other) else run.sample(other["shard"], other["row"])

    def change(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Apply an edit of the page."""
        position = _whole(content.get("position"), "the position")
        key, facts = self.mark_key(str(content.get("meaning")), str(content.get("scope")), position)
        if content.get("undo") or content.get("redo"):
            return self.marks.undo(key, again=bool(content.get("redo"))).to_json()
        edit = {
            "base": _whole(content.get("base"), "the edit that the page has seen"),
            "identifier": str(content.get("identifier", ""))[:64],
            "facts": self._named(key, facts, content),
        }
        return self.marks.change(
            key, from_runs(content.get("added", [])), from_runs(content.get("removed", [])), **edit
        ).to_json()

    def _named(self, key: MarkKey, facts: dict[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
        """The facts with the names of columns or words, for people who read the file."""
        if self.kind not in ("tabular", "text"):
            return facts
        positions = self.marks.state(key).mark.positions
        marked = np.setdiff1d(
            np.union1d(positions, from_runs(content.get("added", []))), from_runs(content.get("removed", []))
        )
        if self.kind == "tabular":
            return {
                **facts,
                "columns": [self.columns[i] for i in itertools.islice(marked.tolist(), 1000) if i < len(self.columns)],
            }
        if key.scope == "sample" or self.names.tokens is None:
            return facts
        return {**facts, "words": [str(w) for w in self.names.tokens(marked[:1000].tolist())]}


def _labels(runs: Sequence[SingleRows]) -> list[str]:
    names = [run.job["explainer"]["name"] for run in runs]
    return [n if names.count(n) == 1 else f"{n} ({run.folder.name})" for n, run in zip(names, runs, strict=True)]


def _is_same(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two rows of one number are of one sample, as far as they say."""
    key = next((k for k in ("fingerprint", "name") if row[k] and other[k]), None)
    return key is None or row[key] == other[key]


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise InvalidInputError(f"{what} is a whole number, got {str(value)[:20]!r}")
    return value

"""Session: an open studio. Its runs, their catalogues, the marks and the jobs; what the page asks is answered here."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xaikit.core.errors import InvalidInputError
from xaikit.files.marks import SCOPES, MarkFolder
from xaikit.files.pictures import Preparation, picture_size
from xaikit.report import Names, pictures
from xaikit.report.cards import kind_of, only_array
from xaikit.runs import ExplainedSample
from xaikit.runs.single_rows import SingleRows
from xaikit.studio.catalogue import ORDERS, Catalogue, is_same_sample
from xaikit.studio.groups import Groups
from xaikit.studio.job_forms import FORMS, MODEL_FREE, form_of
from xaikit.studio.jobs import Jobs
from xaikit.studio.marks import MarkEditor
from xaikit.studio.measures import SampleMeasure
from xaikit.studio.mended import Mended
from xaikit.studio.results import result_of
from xaikit.studio.sample_cards import (
    CardView,
    drawn_maps,
    facts_of,
    input_picture,
    mark_shape,
    parts_of,
    position_weights,
)

Filters = Sequence[tuple[str, str, Any]]

USUAL_VIEW = CardView()
AGAIN = 5.0  # seconds after which a disk that refused is tried again
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
        layer = self.runs[0].job["explainer"].get("settings", {}).get("layer")
        if inputs is None and layer and self.kind in ("series", "tabular"):
            raise InvalidInputError(
                f"{self.runs[0].folder} explains the layer {layer} and holds no inputs, so what a position stands for "
                "is not known; explain again with --keep-inputs"
            )
        self.columns = parts_of(self.kind, values, inputs, self.names) if self.kind == "tabular" else []
        self.has_inputs = inputs is not None
        for run in self.runs[1:]:
            self._check_same_data(run, values)
        self.preparation = _preparation(called.get("preparation", ""))
        self._data = str((template or {}).get("data", ""))
        self.labels = _labels(self.runs)
        self.marks = MarkEditor(MarkFolder.begin(marks or self.runs[0].folder / MARKS, self.kind, self.shape))
        self.jobs = Jobs(self.home / "jobs", template or {}, self.runs[0].folder, explain or {})
        self.measure = SampleMeasure(self)
        self.groups = Groups(self.jobs, self.catalogues[0])
        self.mended = Mended(self.jobs, self.catalogues[0])
        self._stop = threading.Event()

    def begin(self) -> None:
        """Bring the marks up to their history, and index the runs in a thread."""
        self.marks.recover()
        threading.Thread(target=self._index, daemon=True).start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()

    def _index(self) -> None:
        while not self._stop.is_set():
            try:
                for catalogue in self.catalogues:
                    catalogue.fill(self._stop)
            except OSError:  # a full disk may get room
                self._stop.wait(AGAIN)
            except Exception as err:  # the page must go on with what there is
                warnings.warn(f"the index stopped: {err}", stacklevel=1)
                return
            else:
                return

    def _first(self) -> ExplainedSample:
        run = self.runs[0]
        for number in run.numbers():
            if run.rows(number):
                self.catalogues[0].add(number) if number in self.catalogues[0].missing()[:1] else None
                return run.sample(number, 0)
        raise InvalidInputError(f"{run.folder} holds no explained sample")

    def _check_same_data(self, run: SingleRows, values: Any) -> None:
        """Refuse a further run of samples that the first run does not have: its maps would never be shown."""
        first = self.runs[0]
        rows = {row["index"]: row for row in first.rows(first.numbers()[0])}
        number = next((n for n in run.numbers() if run.rows(n)), None)
        if number is None:
            return
        pairs = [(row, rows[row["index"]]) for row in run.rows(number) if row["index"] in rows]
        other = only_array(run.sample(number, 0).values, "values")
        same_kind = kind_of(other, None) == kind_of(values, None) or self.kind == "text"
        if not same_kind or (pairs and not any(is_same_sample(*pair) for pair in pairs)):
            raise InvalidInputError(
                f"{run.folder} explained other samples than {first.folder}; only runs over the same data stand "
                "side by side"
            )

    def state(self) -> dict[str, Any]:
        """What the page must know of the run as a whole."""
        catalogue = self.catalogues[0]
        job = self.runs[0].job
        values = {name: catalogue.values_of(name) for name in ("label", "predicted", "folder")}
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
            "filters": {**classes, "folder": values["folder"]},
            "orders": [o for o in ORDERS if self._has_order(o)],
            "jobs": self.jobs.can_start,
            "forms": {verb: form_of(verb) for verb in FORMS if self.jobs.can_start or verb in MODEL_FREE},
            "marked": self._counts(),
            "colours": pictures.colouring()["signed"],
            "measure": self.measure.progress(),
            "marks": str(self.marks.folder.path),
            "id": hashlib.sha256(str(self.marks.folder.path.resolve()).encode("utf-8", "replace")).hexdigest()[:16],
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
            meaning: {scope: sum(1 for _ in folder.files(meaning, scope)) for scope in SCOPES}
            for meaning in ("must-not-matter", "must-matter")
        }

    def cards(
        self, filters: Filters, order: str, start: int, count: int, view: CardView = USUAL_VIEW
    ) -> dict[str, Any]:
        """Some samples of the gallery, and how many pass the filters.

        Args:
            filters: column, comparison and value of each.
            order: a key of `ORDERS`.
            start: the first of those that are returned.
            count: how many.
            view: how they are shown.

        Raises:
            InvalidInputError: for filters and orders that there are not.
        """
        self.groups.fill_for(filters)
        if view.after and any(column == "after" for column, _, _ in filters):
            self.mended.fill(view.after)
        total, rows = self.catalogues[0].query(filters, order, max(0, start), min(count, MOST_CARDS))
        return {"total": total, "cards": [self.card(row, view) for row in rows]}

    def card(self, row: Mapping[str, Any], view: CardView) -> dict[str, Any]:
        """One sample with its input and its maps.

        Args:
            row: of the catalogue.
            view: how it is shown.
        """
        samples = list(self.samples_of(row))
        mended = self.mended.sample(view.after, row) if view.after else None
        maps = samples if mended is None else [samples[0], ("after", mended), *samples[1:]]
        inputs = self._inputs([sample for _, sample in samples])
        together = (0, 1) if mended is not None else ()
        drawn = drawn_maps(self.kind, maps, inputs, self.names, view, together)
        card = {
            **facts_of(row, self.names),
            "kind": self.kind,
            "input": input_picture(self.kind, inputs, view.side),
            "maps": drawn,
        }
        if mended is not None:
            card["after"] = {
                "predicted": self.names.of_class(mended.predicted),
                "right": None if row["label"] is None else mended.predicted == row["label"],
                "changed": mended.predicted != row["predicted"],
            }
        return card

    def detail(self, position: int, view: CardView) -> dict[str, Any]:
        """One sample in full, with the names of its parts and the sizes of their relevance.

        Args:
            position: of the sample in the run.
            view: how it is shown.

        Raises:
            InvalidInputError: for a position that there is not.
        """
        row = self.catalogues[0].at(position)
        card = self.card(row, view)
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
        extra["clusters"] = self.groups.clusters_with(row["sample"])
        if self.kind == "series":
            extra["weights"] = [float(v) for v in weights]
        return {**card, **extra}

    def samples_of(self, row: Mapping[str, Any]) -> Iterator[tuple[str, ExplainedSample]]:
        """The sample in each run; a run that explained another sample of that number is left out."""
        yield self.labels[0], self.runs[0].sample(row["shard"], row["row"])
        for label, run, catalogue in zip(self.labels[1:], self.runs[1:], self.catalogues[1:], strict=True):
            other = catalogue.of_sample(row["sample"])
            if other is not None and is_same_sample(row, other):
                yield label, run.sample(other["shard"], other["row"])

    def marked(self, row: Mapping[str, Any], sample: ExplainedSample) -> Any:
        """What must not matter of a sample, by all marks: bool, of the shape of its marks."""
        label = row["target"] if row["label"] is None else row["label"]
        ids = self._inputs([sample]) if self.kind == "text" else None
        return self.marks.folder.union("must-not-matter", row["name"] or f"sample {row['sample']}", label, ids)

    def _inputs(self, samples: Sequence[ExplainedSample]) -> Any:
        stored = next((sample.inputs for sample in samples if sample.inputs is not None), None)
        return None if stored is None else only_array(stored, "inputs")

    def picture_size(self, row: Mapping[str, Any]) -> tuple[int, int] | None:
        """(height, width) of a sample's file, where the data were named as a folder and still have it.

        Args:
            row: of the catalogue.
        """
        path = Path(self._data) / row["name"]
        try:
            return picture_size(path) if self._data and row["name"] and path.is_file() else None
        except (InvalidInputError, OSError, ValueError):
            return None

    def result(self, job: str) -> dict[str, Any]:
        """What a job found."""
        record = self.jobs.describe(job)
        if not record["result"]:
            raise InvalidInputError(f"job {job} has no result yet")
        return result_of(self.jobs.home(job), record["verb"], self.names)


def _preparation(text: Any) -> Preparation | None:
    """How the pictures of a run were scaled and cut; None where its manifest does not say."""
    try:
        content = json.loads(text)
        size = content["size"]
        return Preparation(None if size is None else tuple(int(n) for n in size), float(content["crop"]))
    except (ValueError, KeyError, TypeError):
        return None


def _labels(runs: Sequence[SingleRows]) -> list[str]:
    names = [run.job["explainer"]["name"] for run in runs]
    return [n if names.count(n) == 1 else f"{n} ({run.folder.name})" for n, run in zip(names, runs, strict=True)]

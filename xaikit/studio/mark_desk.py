"""MarkDesk: what the page asks about marks: which mark, its content, an edit, a suggestion."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xaikit.core.errors import InvalidInputError
from xaikit.files.marks import MarkKey, Positions, from_runs, to_runs
from xaikit.report.cards import only_array
from xaikit.studio.groups import checked_group
from xaikit.studio.sample_cards import mark_shape, parts_of, position_weights
from xaikit.studio.suggestions import MOST_SAMPLES, above, in_common, place_of, places_in_text

if TYPE_CHECKING:
    from xaikit.runs import ExplainedSample
    from xaikit.studio.session import Session

Filters = Sequence[tuple[str, str, Any]]


class MarkDesk:
    """Answers what the page asks about marks.

    Args:
        session: whose marks they are.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def mark_key(self, meaning: str, scope: str, position: int, cluster: Any = None) -> tuple[MarkKey, dict[str, Any]]:
        """Which mark is meant at a sample, and the facts of the sample for its file.

        Args:
            meaning: of the mark.
            scope: of the mark.
            position: of the sample in the run.
            cluster: of a cluster's mark: its group.

        Raises:
            InvalidInputError: for a mark that there cannot be.
        """
        row = self._session.catalogues[0].at(position)
        if scope == "sample":
            name = row["name"] or f"sample {row['sample']}"
            facts = {"name": name, "sample": row["sample"], "fingerprint": row["fingerprint"]}
            return MarkKey(meaning, scope, name), facts
        if scope == "class":
            label = row["target"] if row["label"] is None else row["label"]
            if label is None:
                raise InvalidInputError("these samples have no classes; mark this sample, or all")
            return MarkKey(meaning, scope, str(label)), {"class": self._session.names.of_class(label)}
        if scope == "cluster":
            group = checked_group(cluster)
            if group not in {c["group"] for c in self._session.groups.clusters_with(row["sample"])}:
                raise InvalidInputError(f"the sample is in no cluster {group}; cluster the explanations first")
            return MarkKey(meaning, scope, group), {"cluster": group}
        return MarkKey(meaning, scope), {}

    def suggest(self, content: Mapping[str, Any], filters: Filters) -> list[int]:
        """The runs of a suggested mark: by a threshold of a sample, of what the filtered samples share, by a factor."""
        way, threshold = content.get("by"), content.get("threshold", 0.5)
        if way == "factor":
            return to_runs(self._factor(str(content.get("job", "")), content.get("number"), content.get("position")))
        if not isinstance(threshold, (int, float)) or isinstance(threshold, bool):
            raise InvalidInputError(f"the threshold is a number, got {str(threshold)[:20]!r}")
        if way == "sample":
            values = only_array(self._sample(content.get("position")).values, "values")
            return to_runs(above(position_weights(self._session.kind, values), threshold))
        if way == "cluster":
            group = checked_group(content.get("cluster"))
            filters = [("sample", "in group", group)]
            self._session.groups.fill_for(filters)
        if way in ("common", "cluster"):
            if self._session.kind == "text":
                raise InvalidInputError("texts have no places in common; take a threshold of this text")
            return to_runs(above(in_common(self._maps(filters)), threshold))
        raise InvalidInputError("a suggestion is by 'sample', 'common', 'cluster' or 'factor'")

    def _maps(self, filters: Filters) -> Iterator[Any]:
        for row in self._session.catalogues[0].spread(filters, MOST_SAMPLES):
            weights = position_weights(
                self._session.kind, only_array(next(self._session.samples_of(row))[1].values, "values")
            )
            if weights.shape == self._session.shape:
                yield weights

    def _sample(self, position: Any) -> ExplainedSample:
        row = self._session.catalogues[0].at(_whole(position, "the position"))
        return next(self._session.samples_of(row))[1]

    def _factor(self, job: str, number: Any, position: Any) -> Positions:
        effects = json.loads((self._session.jobs.home(job) / "scan.json").read_text(encoding="utf-8")).get(
            "effects", []
        )
        if not isinstance(number, int) or not 0 <= number < len(effects):
            raise InvalidInputError(f"the scan has no factor {str(number)[:20]}")
        spec, session = effects[number]["spec"], self._session
        if session.kind == "text":
            sample = self._sample(position)
            if sample.inputs is None:
                raise InvalidInputError("the run holds no texts; explain the data again with --keep-inputs")
            values, ids = only_array(sample.values, "values"), only_array(sample.inputs, "inputs")
            names = parts_of("text", values, ids, session.names)
            positions = places_in_text(spec, list(zip(ids.tolist(), names, strict=True)))
        else:
            positions = place_of(spec, session.kind, session.shape, session.columns)
        if positions is None:
            raise InvalidInputError("this factor has no place that could be marked")
        return positions

    def change(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """Apply an edit of the page."""
        position = _whole(content.get("position"), "the position")
        meaning, scope = str(content.get("meaning")), str(content.get("scope"))
        key, facts = self.mark_key(meaning, scope, position, content.get("cluster"))
        self._check_form(position)
        if scope == "cluster":
            self._session.marks.folder.name_samples(key, self._session.groups.names_of(key.name))
        identifier = str(content.get("identifier", ""))[:64]
        if content.get("undo") or content.get("redo"):
            return self._session.marks.undo(key, redo=bool(content.get("redo")), identifier=identifier).to_json()
        state = self._session.marks.change(
            key,
            from_runs(content.get("added", [])),
            from_runs(content.get("removed", [])),
            base=_whole(content.get("base"), "the edit that the page has seen"),
            identifier=identifier,
            facts=self._named(key, facts, content),
        )
        return state.to_json()

    def _check_form(self, position: int) -> None:
        """Refuse to mark a picture of another form than the first: a position is another place there."""
        session = self._session
        shape = mark_shape(session.kind, only_array(self._sample(position).values, "values"))
        if session.kind != "text" and shape != session.shape:
            raise InvalidInputError(
                f"this sample has the form {'x'.join(map(str, shape))}, and the marks of this run "
                f"{'x'.join(map(str, session.shape))}; explain the data again with one --size to mark all of them"
            )

    def _named(self, key: MarkKey, facts: dict[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
        """The facts with the names of columns or words, for people who read the file."""
        if self._session.kind not in ("tabular", "text"):
            return facts
        positions = self._session.marks.state(key).mark.positions
        marked = np.setdiff1d(
            np.union1d(positions, from_runs(content.get("added", []))), from_runs(content.get("removed", []))
        )
        if self._session.kind == "tabular":
            return {
                **facts,
                "columns": [
                    self._session.columns[i]
                    for i in itertools.islice(marked.tolist(), 1000)
                    if i < len(self._session.columns)
                ],
            }
        if key.scope == "sample" or self._session.names.tokens is None:
            return facts
        return {**facts, "words": [str(w) for w in self._session.names.tokens(marked[:1000].tolist())]}


def _whole(value: Any, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**40:
        raise InvalidInputError(f"{what} is a whole number, got {str(value)[:20]!r}")
    return value

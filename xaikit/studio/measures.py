"""Measures of every sample that are computed when they are asked for: relevance in the marks, disagreement."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xaikit.core.errors import InvalidInputError, XaikitError
from xaikit.report.cards import only_array
from xaikit.studio.sample_cards import position_weights

if TYPE_CHECKING:
    from xaikit.studio.session import Session

NAMES = ("region", "disagreement")
MASK = "must-not-matter"
BLOCK = 64  # samples whose values are written together


class SampleMeasure:
    """Computes one measure at a time in a thread and fills its column.

    Args:
        session: whose samples are measured.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._thread: threading.Thread | None = None
        self._name, self._done, self._total, self._error = "", 0, 0, ""
        self._measured: dict[str, object] = {}  # what each measure was computed from

    def begin(self, name: str) -> None:
        """Begin to compute a measure.

        Args:
            name: "region" (the share of a sample's relevance inside of what must not matter) or "disagreement" (one
                less the cosine of two explainers' maps, the mean over all pairs of explainers).

        Raises:
            InvalidInputError: for another name, or a single explainer that cannot disagree.
        """
        if name not in NAMES or (name == "disagreement" and len(self._session.runs) < 2):
            raise InvalidInputError(f"{name[:40]!r} is no measure of these runs")
        if self._thread is not None and self._thread.is_alive():
            return
        self._name, self._done, self._error = name, 0, ""
        self._total = self._session.catalogues[0].query(count=0)[0]
        if self._measured.get(name) == self._sources(name):
            self._done = self._total
            return
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _sources(self, name: str) -> object:
        """What a measure depends on: the samples that are indexed, and the files of the marks."""
        counts = [catalogue.query(count=0)[0] for catalogue in self._session.catalogues]
        return (counts, self._session.marks.folder.written(MASK) if name == "region" else [])

    def progress(self) -> dict[str, Any] | None:
        """The name of the measure that is computed, and how far it is; None where none is."""
        if not self._name:
            return None
        running = self._thread is not None and self._thread.is_alive()
        return {"name": self._name, "done": self._done, "total": self._total, "running": running, "error": self._error}

    def _run(self) -> None:
        catalogue, sources = self._session.catalogues[0], self._sources(self._name)
        try:
            for start in range(0, self._total, BLOCK):
                _, rows = catalogue.query((), "position", start, BLOCK)
                catalogue.set_values(self._name, [(self._value(row), row["position"]) for row in rows])
                self._done = min(self._total, start + BLOCK)
            self._measured[self._name] = sources
        except (XaikitError, OSError) as err:
            self._error = str(err)

    def _value(self, row: dict[str, Any]) -> float | None:
        session = self._session
        samples = [sample for _, sample in session.samples_of(row)]
        weights = [position_weights(session.kind, only_array(s.values, "values")) for s in samples]
        if self._name == "disagreement":
            return _disagreement(weights)
        inside = session.marked(row, samples[0])
        total = float(weights[0].sum())
        return float(weights[0][inside].sum()) / total if total and inside.shape == weights[0].shape else None


def _disagreement(weights: list[NDArray[Any]]) -> float | None:
    """The mean over all pairs of maps; a map without relevance, or of another form, has no angle to others."""
    flat = [w.reshape(-1) for w in weights if w.shape == weights[0].shape]
    directions = [w / size for w in flat if (size := float(np.linalg.norm(w)))]
    pairs = [1 - float(a @ b) for a, b in itertools.combinations(directions, 2)]
    return float(np.mean(pairs)) if pairs else None

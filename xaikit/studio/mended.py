"""Mended: what the model of a job says to the samples of the run."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from xaikit.runs import ExplainedSample
from xaikit.runs.single_rows import SingleRows
from xaikit.studio.catalogue import Catalogue, is_same_sample
from xaikit.studio.jobs import Jobs


class Mended:
    """The runs that jobs made with mended models, beside the first run.

    Args:
        jobs: of the studio.
        catalogue: of the first run.
    """

    def __init__(self, jobs: Jobs, catalogue: Catalogue) -> None:
        self._jobs, self._catalogue = jobs, catalogue
        self._opened: tuple[str, SingleRows, Catalogue] | None = None
        self._lock = threading.Lock()

    def show(self, job: str) -> dict[str, int]:
        """Put the predictions of a mended model beside those of the run, for filters; how many changed.

        Args:
            job: its number.

        Raises:
            InvalidInputError: for a job that has explained nothing.
        """
        self.fill(job)
        counts = {name: self._catalogue.query([("after", name, None)], count=0)[0] for name in CHANGES}
        return {**counts, "samples": self._catalogue.query(count=0)[0]}

    def fill(self, job: str) -> None:
        """Have the predictions of a mended model in the catalogue; another page may have filled it with another job's.

        Args:
            job: its number.

        Raises:
            InvalidInputError: for a job that has explained nothing.
        """
        run, _ = self._open(job)
        with self._lock:
            state = f"{job} of {self._catalogue.query(count=0)[0]}"  # more samples may be indexed later
            if self._catalogue.note("after") == state:
                return
            self._catalogue.set_note("after", "")
            self._catalogue.clear("after")
            for number in run.numbers():
                predicted = [(row["predicted"], row["index"]) for row in run.rows(number)]
                self._catalogue.set_values("after", predicted, key="sample")
            self._catalogue.set_note("after", state)

    def sample(self, job: str, row: Mapping[str, Any]) -> ExplainedSample | None:
        """A sample as the mended model sees it; None where the job has not explained it.

        Args:
            job: its number.
            row: of the first run's catalogue.

        Raises:
            InvalidInputError: for a job that has explained nothing.
        """
        run, catalogue = self._open(job)
        other = catalogue.of_sample(row["sample"])
        return None if other is None or not is_same_sample(row, other) else run.sample(other["shard"], other["row"])

    def _open(self, job: str) -> tuple[SingleRows, Catalogue]:
        with self._lock:
            if self._opened is None or self._opened[0] != job:
                run = SingleRows(self._jobs.home(job) / "run")
                catalogue = Catalogue(run, self._jobs.home(job) / "index.sqlite")
                catalogue.fill()
                self._opened = (job, run, catalogue)
            return self._opened[1:]


CHANGES = ("changed", "mended", "broken")

"""Groups of samples that jobs made: a cluster of explanations, or those whose prediction changes with a factor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from xaikit.core.errors import InvalidInputError
from xaikit.studio.catalogue import Catalogue
from xaikit.studio.jobs import Jobs
from xaikit.studio.results import changed_by_factors, clusters_of

NAME = re.compile(r"[0-9]{1,9}-[0-9]{1,9}")  # of a group: the job's number, and the cluster's or the factor's


class Groups:
    """The groups of the jobs of a run, in its catalogue, so that the gallery filters by them.

    Args:
        jobs: of the run.
        catalogue: of the run.
    """

    def __init__(self, jobs: Jobs, catalogue: Catalogue) -> None:
        self._jobs, self._catalogue = jobs, catalogue
        self._filled: set[str] = set()

    def of_job(self, job: str) -> list[dict[str, Any]]:
        """The groups of a job: name, title and number of samples of each.

        Args:
            job: its number.

        Raises:
            InvalidInputError: for a job that makes no groups, or has no result.
        """
        home, verb = self._jobs.home(job), self._jobs.describe(job)["verb"]
        if verb == "shortcuts":
            groups = [(number, f"cluster {number}", samples) for number, samples in clusters_of(home).items()]
        elif verb == "scan":
            groups = [(number, title, samples) for number, title, samples in changed_by_factors(home)]
        else:
            raise InvalidInputError(f"job {job}, {verb}, makes no groups; these are of shortcuts and scan")
        if job not in self._filled:
            self._fill(job, [(f"{job}-{number}", samples) for number, _, samples in groups])
        return [
            {"group": f"{job}-{number}", "title": title, "samples": len(samples)} for number, title, samples in groups
        ]

    def fill_for(self, filters: Sequence[tuple[str, str, Any]]) -> None:
        """Have the groups that filters name in the catalogue.

        Args:
            filters: column, comparison and value of each.

        Raises:
            InvalidInputError: for a group of a job that there is not.
        """
        for _, comparison, value in filters:
            job = str(value).partition("-")[0]
            if comparison == "in group" and job not in self._filled:
                self.of_job(job)

    def clusters_with(self, sample: int) -> list[dict[str, str]]:
        """The clusters that a sample belongs to, of the newest job first.

        Args:
            sample: its index in the data.
        """
        clustered = [job["number"] for job in self._jobs.list() if job["verb"] == "shortcuts" and job["result"]]
        for job in clustered:
            if job not in self._filled:
                self.of_job(job)
        with self._catalogue.connection() as base:
            names = [row[0] for row in base.execute("SELECT grp FROM members WHERE sample = ?", (sample,))]
        pairs = [name.split("-") for name in names]
        return [
            {"group": f"{job}-{cluster}", "title": f"cluster {cluster} of job {job}"}
            for number in clustered
            for job, cluster in pairs
            if job == number
        ]

    def names_of(self, group: str) -> list[str]:
        """The names of the samples of a group.

        Args:
            group: its name.
        """
        with self._catalogue.connection() as base:
            rows = base.execute(
                "SELECT name, sample FROM samples WHERE sample IN (SELECT sample FROM members WHERE grp = ?)", (group,)
            ).fetchall()
        return [name or f"sample {sample}" for name, sample in rows]

    def _fill(self, job: str, groups: Sequence[tuple[str, Sequence[int]]]) -> None:
        with self._catalogue.connection() as base:
            base.execute("DELETE FROM members WHERE grp LIKE ?", (f"{job}-%",))
            for name, samples in groups:
                base.executemany("INSERT OR IGNORE INTO members VALUES (?, ?)", [(name, s) for s in samples])
        self._filled.add(job)


def checked_group(value: Any) -> str:
    """The name of a group, such as "3-1".

    Args:
        value: from the page.

    Raises:
        InvalidInputError: for anything else.
    """
    if not NAME.fullmatch(str(value)):
        raise InvalidInputError(f"a group is named by its job and its number, such as 3-1, got {str(value)[:20]!r}")
    return str(value)

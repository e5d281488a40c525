"""The work behind `xaikit tune`: one process, or several that share a study in a storage."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from xaikit.cli.searching import search_of
from xaikit.cli.stream import tell_skipped
from xaikit.core import Float, Int
from xaikit.core.errors import InvalidInputError, TuningError
from xaikit.core.results import Stopped
from xaikit.tuning import TuneResult
from xaikit.tuning.search import Search, run_search
from xaikit.tuning.study import quiet
from xaikit.tuning.tune import explanation_result

if TYPE_CHECKING:
    from xaikit.cli.tune import Tune

# Seconds between two looks at the workers, and between two looks at the study, which slow the workers down.
LOOK_SECONDS, ASK_SECONDS = 0.2, 3.0


def run_job(job: Tune) -> tuple[TuneResult[Any], int]:
    """Search in this process, or in several that this one starts and watches; the result, and the samples left out.

    Raises:
        InvalidInputError: for several workers without a storage that they share.
        TuningError: when no trial gave a number, or every worker has ended before its time.
    """
    Int(ge=1).check(job.trials, "--trials")
    Int(ge=1).check(job.workers, "--workers")
    Float(ge=0).check(job.timeout, "--timeout")
    if job.workers > 1 and not job.storage:
        raise InvalidInputError("several workers need a --storage that they share, such as sqlite:///study.db")
    search, samples = search_of(job)
    skipped = tell_skipped(samples)
    options: dict[str, Any] = {"storage": job.storage or None, "resume": job.resume and bool(job.storage)}
    name = job.study if job.storage else None
    if job.resume and not job.storage:
        raise InvalidInputError("--resume needs the --storage that holds the study")
    if job.workers == 1:
        stopped = run_search(
            search,
            n_trials=job.trials,
            timeout=job.timeout or None,
            study_name=name,
            progress=not job.quiet,
            **options,
        )
        return explanation_result(search, stopped), skipped
    with quiet():
        search.open(options["storage"], name, resume=options["resume"], n_trials=job.trials)
        return explanation_result(search, _watch(job, search)), skipped


def work(job: Tune, rank: int, until: int) -> None:
    """One worker: joins the study until it holds so many finished trials."""
    run_search(
        search_of(job)[0],
        n_trials=job.trials,
        timeout=job.timeout or None,
        storage=job.storage,
        study_name=job.study,
        resume=True,
        progress=False,
        worker=(rank, until),
    )


def _watch(job: Tune, search: Search) -> Stopped:
    """Start the workers and wait until the study is done; one that dies leaves its work to the others."""
    before = search.n_finished
    until = before + job.trials
    with (
        _started(job, until) as workers,
        tqdm(total=job.trials, desc=f"tune, {job.workers} workers", unit="trial", disable=job.quiet) as bar,
    ):
        alive, last_poll = set(range(len(workers))), time.monotonic()
        try:
            while alive:
                time.sleep(LOOK_SECONDS)
                if not job.quiet and time.monotonic() - last_poll > ASK_SECONDS:
                    bar.n, last_poll = min(search.n_finished - before, job.trials), time.monotonic()
                    bar.update(0)
                for rank in [r for r in alive if workers[r][0].poll() is not None]:
                    alive.remove(rank)
                    _tell(rank, *workers[rank], others=bool(alive), bar=bar)
        except KeyboardInterrupt:
            return Stopped.INTERRUPTED
        if search.n_finished >= until:
            return Stopped.DONE
        if any(process.returncode == 0 for process, _ in workers):
            return Stopped.OUT_OF_TIME if job.timeout else Stopped.EXHAUSTED
        raise TuningError(
            f"every worker ended before the {job.trials} trials were made ({search.n_finished - before} are in the "
            f"storage; --resume goes on): {_last_line(workers[0][1])}"
        )


@contextlib.contextmanager
def _started(job: Tune, until: int) -> Iterator[list[tuple[subprocess.Popen[str], Path]]]:
    """While active, the workers run, each with a file of its messages; afterwards all are ended."""
    threads = str(max(1, (os.cpu_count() or 1) // job.workers))
    environment = {"OMP_NUM_THREADS": threads, **os.environ}
    workers: list[tuple[subprocess.Popen[str], Path]] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for rank in range(job.workers):
                path = Path(folder) / f"{rank}.txt"
                command = [sys.executable, "-m", "xaikit", "tune-worker", str(rank), str(until)]
                with path.open("w") as messages:
                    process = subprocess.Popen(  # noqa: S603
                        command, stdin=subprocess.PIPE, stdout=messages, stderr=messages, text=True, env=environment
                    )
                workers.append((process, path))
                if process.stdin is not None:
                    process.stdin.write(job.model_dump_json())
                    process.stdin.close()
            yield workers
        finally:
            for process, _ in workers:
                if process.poll() is None:
                    process.terminate()
            for process, _ in workers:
                process.wait()


def _tell(rank: int, process: subprocess.Popen[str], messages: Path, *, others: bool, bar: Any) -> None:
    """A line for a worker that did not end well."""
    code = process.returncode
    if code == 0:
        return
    how = f"was killed by signal {-code}" if code < 0 else f"failed: {_last_line(messages)}"
    bar.write(f"xaikit: note: worker {rank} {how}{'; the others go on' if others else ''}", file=sys.stderr)


def _last_line(messages: Path) -> str:
    lines = messages.read_text().split("\n")
    return next((line for line in reversed(lines) if line.strip()), "without a word").removeprefix("xaikit: ")

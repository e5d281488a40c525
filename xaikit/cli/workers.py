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
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from xaikit.cli.inputs import read_batch
from xaikit.cli.options import device_of, numbers, targets_of
from xaikit.cli.tune import Tune
from xaikit.core import EXPLAINERS, Float, Int
from xaikit.core.errors import InvalidInputError, TuningError
from xaikit.tuning import TuneResult
from xaikit.tuning.search import Search, Stopped, run_search
from xaikit.tuning.study import quiet
from xaikit.tuning.tune import explanation_result, explanation_search
from xaikit.tuning.wanted import ALL

LOOK_SECONDS, ASK_SECONDS = 0.2, 3.0  # between two looks at the workers, and at the study, which costs them time


def search_of(job: Tune) -> Search:
    """The search that a job means, with model and samples loaded.

    Raises:
        InvalidInputError, InvalidTypeError, UnknownNameError: for options that cannot be right.
    """
    made = [EXPLAINERS.create(text) for text in job.explainer]
    if not made:
        raise InvalidInputError("name at least one --explainer")
    metric, space = _metric(job), _space(job)
    if bool(job.data) == (job.source is not None):
        raise InvalidInputError("name either an INPUT or --data, a data set")
    read = _of_input if job.source is not None else _of_data
    batches, skipped = read(job)
    view = job.view()
    model = job.loaded()
    explainers = [explainer.set_kwargs(model=model, **view) for explainer in made]
    search = explanation_search(
        explainers if len(explainers) > 1 else explainers[0],
        metric,
        batches(model),
        sampler=job.sampler,
        pruner=job.pruner or None,
        seed=job.seed,
        space=space,
        postprocess=job.postprocess,
    )


def _metric(job: Tune) -> Any:
    names = list(job.metric)
    if not names:
        raise InvalidInputError("name at least one --metric")
    if not job.weigh:
        return names if len(names) > 1 else names[0]
    weights = numbers(job.weigh, float, "--weigh")
    if len(weights) != len(names):
        raise InvalidInputError(f"--weigh takes a number for each --metric ({len(names)}), got {len(weights)}")
    return dict(zip(names, weights, strict=True))


def _space(job: Tune) -> dict[str, Any] | str | None:
    if not job.vary or job.vary == (ALL,):
        return ALL if job.vary else None
    parts = (text.partition("=") for text in job.vary)
    return {name: [_value(v) for v in choices.split(",") if v] if equals else None for name, equals, choices in parts}


def run_job(job: Tune) -> TuneResult[Any]:
    """Search in this process, or in several that this one starts and watches.

    Raises:
        InvalidInputError: for several workers without a storage that they share.
        TuningError: when no trial gave a number, or every worker has ended before its time.
    """
    Int(ge=1).check(job.trials, "--trials")
    Int(ge=1).check(job.workers, "--workers")
    Int(ge=0).check(job.batch_size, "--batch-size")
    Float(ge=0).check(job.timeout, "--timeout")
    if job.workers > 1 and not job.storage:
        raise InvalidInputError("several workers need a --storage that they share, such as sqlite:///study.db")
    search = search_of(job)
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
        return explanation_result(search, stopped)
    with quiet():
        search.open(options["storage"], name, resume=options["resume"], n_trials=job.trials)
        return explanation_result(search, _watch(job, search))


def work(job: Tune, rank: int, until: int) -> None:
    """One worker: joins the study until it holds so many finished trials."""
    run_search(
        search_of(job),
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
        alive, asked = set(range(len(workers))), time.monotonic()
        try:
            while alive:
                time.sleep(LOOK_SECONDS)
                if not job.quiet and time.monotonic() - asked > ASK_SECONDS:
                    bar.n, asked = min(search.n_finished - before, job.trials), time.monotonic()
                    bar.update(0)
                for rank in [r for r in alive if workers[r][0].poll() is not None]:
                    alive.remove(rank)
                    _tell(rank, *workers[rank], others=bool(alive), bar=bar)
        except KeyboardInterrupt:
            return "interrupted"
        if search.n_finished >= until:
            return "trials"
        if any(process.returncode == 0 for process, _ in workers):
            return "timeout" if job.timeout else "space"
        raise TuningError(
            f"every worker ended before the {job.trials} trials were made ({search.n_finished - before} are in the "
            f"storage; --resume goes on): {_last_line(workers[0][1])}"
        )


@contextlib.contextmanager
def _started(job: Tune, until: int) -> Iterator[list[tuple[subprocess.Popen[str], Path]]]:
    """The workers with the files of their messages; none outlives this process's interest."""
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


def _in_batches(inputs: torch.Tensor, targets: Any, size: int) -> list[tuple[Any, Any]]:
    if size == 0:
        return [(inputs, targets)]
    return [
        (inputs[i : i + size], targets[i : i + size] if isinstance(targets, torch.Tensor) else targets)
        for i in range(0, len(inputs), size)
    ]


def _targets(text: str) -> list[int]:
    """Classes out of a text or a .npy file."""
    if not text.endswith(".npy"):
        return numbers(text, int, "--target")
    try:
        array = np.load(text, allow_pickle=False)
    except (ValueError, OSError, EOFError) as err:
        raise InvalidInputError(f"--target {text} is not an array of classes ({err})") from None
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InvalidInputError(f"--target {text} must hold a class for each sample, got {array.dtype} {array.shape}")
    return [int(v) for v in array]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return {"true": True, "false": False}.get(text, text)

"""Several processes that share a job: started here (--processes), or by torchrun on one machine or several."""

from __future__ import annotations

import datetime
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from xaikit.cli.job import INTERRUPTED, Job, flag

if TYPE_CHECKING:
    import torch

LOOK_SECONDS = 0.1
GRACE_SECONDS = 2.0  # what is wrong for all, the first process says
PATIENCE = datetime.timedelta(days=7)  # a process may be done long before the others


class ProcessFields(Job):
    """The number of processes that share the work."""

    processes: int = flag(1, help="Share the work among so many processes; with --device cuda each has its own GPU.")

    @property
    def starts_others(self) -> bool:
        """Whether this process is to start those that do the work."""
        from xaikit.core import Int

        return Int(ge=1).check(self.processes, "--processes") > 1 and world_size() == 1

    def shared(self) -> int:
        """Start the processes, wait for them, tell what ended one that failed; the exit code."""
        with tempfile.TemporaryDirectory() as folder:
            paths = [Path(folder) / f"{rank}.txt" for rank in range(self.processes)]
            meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
            workers = [_start(self, place, path, meet) for place, path in enumerate(paths)]
            try:
                code, rank = _watch(workers)
            finally:
                for worker in workers:
                    if worker.poll() is None:
                        worker.terminate()
                for worker in workers:
                    worker.wait()
            if code and rank:
                typer.echo(f"xaikit: process {rank} of {self.processes}: {_last_line(paths[rank])}", err=True)
        return code if code >= 0 else 1


def run_worker(verb: str) -> None:
    """One of the processes: the job comes on standard input."""
    from xaikit.cli.job import JOBS, run_job

    code = run_job(JOBS[verb].model_validate_json(sys.stdin.read()), silent=rank() > 0)
    if code:
        raise typer.Exit(code)


def rank() -> int:
    """This process among those that share the work."""
    return _number("RANK", 0)


def world_size() -> int:
    """The number of processes that share the work."""
    return _number("WORLD_SIZE", 1)


def wait_for_all() -> bool:
    """Wait until every process has come here; False where nobody says how to meet."""
    import torch.distributed as dist

    if world_size() == 1 or "MASTER_ADDR" not in os.environ or not dist.is_available():
        return world_size() == 1
    dist.init_process_group("gloo", timeout=PATIENCE)
    dist.barrier()
    dist.destroy_process_group()
    return True


def fabric(device: torch.device, precision: str) -> Any:
    """The Lightning Fabric for these processes; None for a single one in the model's own precision.

    Raises:
        InvalidInputError: for a precision that Fabric does not know.
        MissingDependencyError: where Lightning Fabric is absent.
    """
    from xaikit.core.errors import InvalidInputError, MissingDependencyError

    if world_size() == 1 and not precision:
        return None
    try:
        from lightning_fabric import Fabric
    except ImportError:
        raise MissingDependencyError(
            "--processes and --precision need Lightning Fabric: pip install 'xaikit[train]'"
        ) from None
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # else it tells how its processes meet
    n_local = _number("LOCAL_WORLD_SIZE", world_size())
    chosen: Any = precision or "32-true"
    try:
        return Fabric(
            accelerator=device.type,
            devices=n_local,
            num_nodes=max(1, world_size() // n_local),
            strategy="ddp" if world_size() > 1 else "auto",
            precision=chosen,
        )
    except ValueError as err:
        raise InvalidInputError(f"--precision {precision}: {err}") from None


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else usual


def _start(job: ProcessFields, rank: int, messages: Path, meet: dict[str, str]) -> subprocess.Popen[str]:
    """A process; the first one speaks to the user, what the others say goes to a file."""
    world = str(job.processes)
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // job.processes))}
    places = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    environment = {**threads, **os.environ, **places, **meet}
    command = [sys.executable, "-m", "xaikit", "worker", job.VERB]
    with messages.open("w") as log:
        outputs = {} if rank == 0 else {"stdout": log, "stderr": log}
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env=environment, **outputs)  # type: ignore[call-overload]  # noqa: S603
    worker.stdin.write(job.model_dump_json())
    worker.stdin.close()
    return worker  # type: ignore[no-any-return]


def _watch(workers: list[subprocess.Popen[str]]) -> tuple[int, int]:
    """Exit code and rank of the first process that fails; 0 when all are done."""
    begun = time.monotonic()
    try:
        while True:
            codes = [worker.poll() for worker in workers]
            failed = next(((code, i) for i, code in enumerate(codes) if code), None)
            if failed is not None and (failed[1] == 0 or time.monotonic() - begun > GRACE_SECONDS):
                return failed
            if failed is None:
                begun = time.monotonic()
            if None not in codes:
                return 0, 0
            time.sleep(LOOK_SECONDS)
    except KeyboardInterrupt:  # Ctrl-C reaches the processes, too, and the first one says what becomes of the work
        for worker in workers:
            worker.wait()
        return INTERRUPTED, 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _last_line(messages: Path) -> str:
    lines = messages.read_text().split("\n")
    return next((line for line in reversed(lines) if line.strip()), "ended without a word").removeprefix("xaikit: ")

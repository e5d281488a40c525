"""What all tests share."""

from __future__ import annotations

import functools
import gc
import os
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import typer

# The test processes share the cores; processes that tests start, and other libraries than torch, inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests run first, so that no process is left alone with them at the end."""
    longest = ("nightly", "zoo", "slow")
    items.sort(key=lambda item: next((i for i, m in enumerate(longest) if item.get_closest_marker(m)), len(longest)))


def pytest_collection_finish() -> None:
    """What is imported by now stays; the garbage collector need not walk through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _one_command_line() -> Iterator[None]:
    """Typer makes the parsers of all verbs anew for each call, which is most of the time of a small command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_seeds_for_absent_devices() -> Iterator[None]:
    """torch.manual_seed keeps a stack trace of each call for each kind of device that is not there, which is slow."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (torch.cuda, torch.xpu, torch.mtia):
            if not kind.is_available():
                patch.setattr(kind, "manual_seed_all", lambda seed: None, raising=False)  # torch 2.6 has not all
        yield


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of reference outputs of published code; its README says how they were made."""
    return Path(__file__).parent / "data" / "golden"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server on loopback, started for the tests that ask for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks for a runtime folder of the user, who may have none
        pgserver = pytest.importorskip("pgserver", reason="needs a PostgreSQL server: pip install pgserver")
    # Not pytest's folder: as root the server runs as another user, who must be let in.
    folder = Path(tempfile.mkdtemp(prefix="xaikit-pg"))
    server = pgserver.get_server(folder, cleanup_mode=None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # It listens on a socket file at first; what is tested is TCP.
    options = ["-w", "-l", str(folder / "log"), "-o", f"-h 127.0.0.1 -p {port} -k {folder}"]
    pgserver.pg_ctl([*options, "restart"], pgdata=folder, user=server.system_user)
    yield f"postgresql://postgres:secret@127.0.0.1:{port}/postgres"
    pgserver.pg_ctl(["-w", "-m", "fast", "stop"], pgdata=folder, user=server.system_user)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)

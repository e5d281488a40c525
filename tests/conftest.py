"""What all tests share."""

from __future__ import annotations

import functools
import gc
import os
import random
import shutil
import socket
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

# The test processes share the cores; processes that tests start, and other libraries than torch, inherit this.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)
gc.disable()  # until the tests are collected: modules that are imported are not garbage


# Seconds of the marked tests of a file, half a second each where it is missing; a wrong one costs a little balance.
SECONDS = {
    "examples/test_real_models.py": 70, "usage/test_documents.py": 80, "random_nets/test_random_nets.py": 31,
    "unit/cli/test_demo.py": 23, "unit/cli/test_processes.py": 12, "unit/mitigation/test_mend.py": 17,
    "unit/studio/test_chromium_jobs.py": 14, "usage/test_site.py": 24, "contract/test_devices.py": 30,
    "unit/explainers/lrp/test_zoo.py": 19, "unit/mitigation/test_fabric.py": 14, "unit/tuning/test_storage.py": 9,
    "unit/cli/test_tune.py": 9, "unit/core/test_checkpointed_models.py": 22, "contract/test_explainers.py": 9,
    "usage/test_help_examples.py": 21, "usage/test_notebooks.py": 13, "unit/studio/test_chromium.py": 14,
    "usage/test_install.py": 25, "threads/test_threads.py": 8, "unit/explainers/cd/test_zoo.py": 13,
    "examples/test_skin.py": 11, "unit/report/test_chromium.py": 12, "unit/explainers/test_captum_values.py": 8,
}  # fmt: skip
SHORT = 0.022  # seconds of a test that is not marked


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests run first, and every process has as long to do, so that none is left alone at the end.

    xdist hands each process a stretch of the list and lets an idle one steal from the end of another's. So the files
    are dealt out, those with marked tests before the others; a file stays whole, since its tests share what they made.
    """
    here = Path(__file__).parent
    files: dict[tuple[bool, Path], list[pytest.Item]] = {}
    for item in items:
        short = not any(item.get_closest_marker(name) for name in ("nightly", "zoo", "slow"))
        files.setdefault((short, item.path), []).append(item)

    def seconds(part: tuple[bool, Path]) -> float:
        short, path = part
        number = len(files[part])
        return SHORT * number if short else SECONDS.get(os.path.relpath(path, here), 0.5 * number)

    hands: list[list[pytest.Item]] = [[] for _ in range(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))]
    loads = [0.0] * len(hands)
    for part in sorted(files, key=lambda part: (part[0], -seconds(part))):
        hand = loads.index(min(loads))
        hands[hand] += files[part]
        loads[hand] += seconds(part)
    # The stretches are of equal numbers of tests: what a hand has beyond that goes to the next ones, from its end.
    size = -(-len(items) // len(hands))
    spare = [item for hand in hands for item in hand[size:]]
    items[:] = []
    for hand in hands:
        kept = hand[:size]
        items += kept + [spare.pop(0) for _ in range(min(size - len(kept), len(spare)))]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    """The numbers that a file draws while it is imported do not depend on the files before it."""
    _seed()
    torch.default_generator.manual_seed(0)  # torch.manual_seed would walk through all kinds of devices
    return (yield)


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)


def pytest_collection_finish() -> None:
    """What is imported by now stays; the garbage collector need not walk through it again.

    Nor so often through what a test imports: a full collection comes after a hundred young ones, not after ten.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)
    gc.enable()


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


@pytest.fixture(scope="module", autouse=True)
def _garbage() -> None:
    """As after the collection of tests: what earlier files have imported and keep is not walked through again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    _seed()
    torch.manual_seed(0)

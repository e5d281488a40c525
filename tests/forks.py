"""Processes that tests start and kill: forks of one that has imported what they need, most of what starting one takes.

`forked` calls a function in such a process. Within `warm()` every `subprocess.Popen` of this Python with `-m xaikit`,
`-c` or a script is one, in the processes that it starts too; other commands are started as ever.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import fcntl
import json
import os
import pickle
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).parents[1]
PATH = "XAIKIT_TESTS_FORKS"  # the environment variable with the place of the server's socket
CALL = "import base64, pickle, sys; f, a = pickle.loads(base64.b64decode(sys.argv[1])); f(*a)"
_lifelines: list[socket.socket] = []  # while this process holds a connection, the server lives


class WarmPopen(subprocess.Popen):
    """A `subprocess.Popen` whose process is a fork of the server's."""

    server: int | None = None  # the descriptor of the connection

    def _execute_child(self, args: Any, *rest: Any) -> None:
        if not _fits(args):
            super()._execute_child(args, *rest)
            return
        pipes = rest[9:15]  # each end of standard input, output and error, -1 where there is none
        streams = [own if pipe == -1 else pipe for own, pipe in zip((0, 1, 2), (pipes[0], *pipes[3::2]), strict=True)]
        folder, environment = rest[4], rest[5]
        call = {
            "arguments": [os.fspath(a) for a in args[1:]],
            "folder": os.path.abspath(folder or os.getcwd()),
            "environment": {**(os.environ if environment is None else environment), PATH: server()},
            "session": bool(rest[20]),
            "apart": type(self) is WarmPopen,
            "by": os.getpid(),
        }
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        try:
            self._begin(call, streams)
        except ConnectionRefusedError:  # the server is gone: a process as ever
            super()._execute_child(args, *rest)
            return
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _begin(self, call: dict[str, Any], streams: list[int]) -> None:
        self.server = _connected(call, streams, call["environment"][PATH]).detach()
        self.pid = int(_line(self.server))

    def _internal_poll(self, *args: Any, **kwargs: Any) -> int | None:
        if self.server is None:
            return super()._internal_poll(*args, **kwargs)
        return self._looked(0)

    def _wait(self, timeout: float | None) -> int | None:
        if self.server is None:
            return super()._wait(timeout=timeout)
        if self._looked(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def _looked(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self.server], [], [], timeout)[0]:
            self.returncode = int(_line(self.server) or -9)  # nothing: the server is gone
            os.close(self.server)
        return self.returncode


class ForkingPopen(WarmPopen):
    """The same in a process that is a fork itself and has one thread: its own fork, in its session."""

    def _begin(self, call: dict[str, Any], streams: list[int]) -> None:
        from tests.fork_server import become

        self.pid = os.fork()
        if self.pid == 0:
            become(call, streams)


class Forked:
    """A process that calls a function, with the names of `multiprocessing`."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        call = base64.b64encode(pickle.dumps((function, arguments))).decode()
        with warm():
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # it finds the function's module
            self.process = subprocess.Popen([sys.executable, "-c", CALL, call], env=environment)
        self.pid, self.kill = self.process.pid, self.process.kill

    @property
    def exitcode(self) -> int | None:
        return self.process.poll()

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def join(self, timeout: float | None = None) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)


def forked(function: Callable[..., Any], *arguments: Any) -> Forked:
    """A started process that calls a function of a module."""
    return Forked(function, arguments)


@contextlib.contextmanager
def warm() -> Iterator[None]:
    """While active, commands of this Python are forks; where there are no forks they are started as ever."""
    with mock.patch.object(subprocess, "Popen", WarmPopen) if sys.platform == "linux" else contextlib.nullcontext():
        yield


def start_others_warm(*, job: bool) -> None:
    """In a fork: the processes that it starts are forks too; those of a job are in the job's session."""
    subprocess.Popen = ForkingPopen if job else WarmPopen  # type: ignore[misc]


def children(process: int) -> list[int]:
    """The processes that a process has started and that run."""
    started = []
    for path in Path(server()).parent.glob(f"{Path(server()).name}.*"):
        with contextlib.suppress(FileNotFoundError):
            by, _ = json.loads(path.read_text() or "[0, 0]")
            started += [int(path.suffix[1:])] * (by == process)
    return started


def server() -> str:
    """The place of the socket of the server, which is started where there is none yet: one for all test processes."""
    if PATH in os.environ:
        return os.environ[PATH]
    name = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:16]
    path = os.path.join(tempfile.gettempdir(), f"xaikit-forks-{os.getuid()}-{name}")
    if not _lifelines:
        with open(f"{path}-lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not os.path.exists(path):
                command = [sys.executable, "-W", "ignore", "-m", "tests.fork_server", path]
                environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
                process = subprocess.Popen(
                    command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, start_new_session=True
                )
                process.returncode = 0  # nobody waits for it: it ends when the last test process does
                while not os.path.exists(path):
                    time.sleep(0.05)
            _lifelines.append(_connected({"arguments": None}, [], path))
            atexit.register(_lifelines[0].close)
    return path


def _connected(call: dict[str, Any], streams: list[int], path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    socket.send_fds(connection, [b"x"], streams)
    connection.sendall(json.dumps(call).encode() + b"\n")
    return connection


def _line(descriptor: int) -> bytes:
    line = b""
    while not line.endswith(b"\n") and (part := os.read(descriptor, 1)):
        line += part
    return line


def _fits(args: Any) -> bool:
    if not isinstance(args, list | tuple) or len(args) < 2 or args[0] != sys.executable:
        return False
    first = str(args[1])
    modules = ("xaikit", "ipykernel_launcher", "mkdocs")
    return first == "-c" or first.endswith(".py") or (first == "-m" and args[2] in modules)

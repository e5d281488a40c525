"""A process that has imported what tests need, and forks itself for each command that a test starts: `tests/forks.py`.

    python -W ignore -m tests.fork_server SOCKET

A fresh Python reads torch and the libraries beside it for some seconds before a command begins; a fork has them. In all
else a fork is as the command would be: its arguments, environment, folder, streams, session and exit code. It ends when
no test process holds a connection to it.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

IMPORTED_BEFORE = [
    *("xaikit.cli.main", "xaikit.explainers", "xaikit.metrics", "xaikit.mitigation", "xaikit.runs", "xaikit.factors"),
    *("xaikit.tuning.study", "xaikit.report", "xaikit.studio", "torch._dynamo", "torch.distributed", "torchvision"),
    *("lightning_fabric", "optuna", "optuna.storages", "sqlalchemy", "uvicorn", "starlette.applications"),
]
LIFELINE = {"arguments": None}


def become(call: dict[str, Any], streams: Sequence[int]) -> None:
    """Be the command from here on: this process is a fork of the server, or of one of its forks. Never returns.

    Args:
        call: `arguments` as after the name of the interpreter, `environment`, `folder`; `session`: whether a new one;
            `apart`: whether in a process group of its own, so that no signal to its group ends the server.
        streams: standard input, output and error.
    """
    code = 1
    try:
        if call["session"]:
            os.setsid()
        elif call["apart"]:
            os.setpgid(0, 0)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        os.closerange(3, 1 << 12)
        sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1, errors="backslashreplace")
        os.environ.clear()
        os.environ.update(call["environment"])
        os.environ.pop("JPY_PARENT_PID", None)  # a notebook's kernel ends where its parent, here the server, is another
        os.chdir(call["folder"])
        code = _run(call["arguments"])
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            threading._shutdown()  # type: ignore[attr-defined]  # waits for the threads, as the interpreter does
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(code)


def _run(arguments: list[str]) -> int:
    """What `python` does with these arguments; the exit code."""
    import numpy as np

    from tests import forks

    forks.start_others_warm(job=arguments[0].endswith("job_process.py"))
    np.random.seed()  # a fresh process has numbers of its own
    extra = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    first = str(Path(arguments[0]).parent) if arguments[0].endswith(".py") else os.getcwd()
    sys.path[:] = [first, *extra, *(p for p in sys.path[1:] if p not in extra)]
    importlib.invalidate_caches()
    try:
        if arguments[0] == "-c":
            sys.argv = ["-c", *arguments[2:]]
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        elif arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            runpy.run_path(arguments[0], run_name="__main__")
    except SystemExit as left:
        if isinstance(left.code, int | None):
            return (left.code or 0) & 0xFF
        print(left.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A call and its streams, as `tests.forks` sends them."""
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("r") as file:
        return json.loads(file.readline()), streams


def serve(path: str) -> None:
    """Fork for each call until the last test process is gone."""
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{path}-new")
    listening.listen(64)
    os.rename(f"{path}-new", path)
    lifelines: set[socket.socket] = set()
    waiting: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(listening, selectors.EVENT_READ, "listening")
        while True:
            for key, _ in selector.select():
                if key.data == "listening":
                    connection, _ = listening.accept()
                    call, streams = receive(connection)
                    if call == LIFELINE:
                        lifelines.add(connection)
                        selector.register(connection, selectors.EVENT_READ, "lifeline")
                        continue
                    begun, closed_by_fork = os.pipe()
                    process = os.fork()
                    if process == 0:
                        become(call, streams)
                    os.close(closed_by_fork)
                    os.read(
                        begun, 1
                    )  # who asks for the group of a fork that has none yet would get, and kill, this one
                    os.close(begun)
                    for stream in streams:
                        os.close(stream)
                    # Whoever started it finds it, as it would among its own processes.
                    Path(f"{path}.{process}").write_text(json.dumps([call["by"], call["arguments"]]))
                    end = os.pidfd_open(process)
                    waiting[end] = process, connection
                    selector.register(end, selectors.EVENT_READ, "process")
                    with contextlib.suppress(OSError):  # who started it may be gone
                        connection.sendall(f"{process}\n".encode())
                elif key.data == "lifeline":
                    selector.unregister(key.fileobj)
                    lifelines.discard(key.fileobj)  # type: ignore[arg-type]
                    if not lifelines:
                        _end(path, [process for process, _ in waiting.values()])
                        return
                else:
                    selector.unregister(key.fd)
                    process, connection = waiting.pop(key.fd)
                    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
                    os.close(key.fd)
                    Path(f"{path}.{process}").unlink(missing_ok=True)
                    with contextlib.suppress(OSError), connection:
                        connection.sendall(f"{code}\n".encode())


def _end(path: str, processes: list[int]) -> None:
    for process in processes:
        os.kill(process, signal.SIGKILL)
        Path(f"{path}.{process}").unlink(missing_ok=True)
    for name in (path, f"{path}-lock"):
        Path(name).unlink(missing_ok=True)


if __name__ == "__main__":
    gc.disable()
    from xaikit.core.torchvision_ops import import_torchvision

    import_torchvision()
    for name in IMPORTED_BEFORE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.enable()
    serve(sys.argv[1])

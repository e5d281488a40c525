"""Writing a file completely or not at all, by one process at a time."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xaikit.core.errors import InvalidInputError, close_names

PARTIAL = ".partial"


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write a file in one step. If it fails, an earlier file of that name stays as it is.

    Raises:
        OSError: when the disk refuses (full, read-only, no such folder); it names the file.

    >>> import tempfile
    >>> write_whole(Path(tempfile.mkdtemp()) / "a.txt", "words").read_text()
    'words'
    """
    path = Path(path)
    partial = partial_path(path)
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as err:
        reason = err.strerror if path.parent.is_dir() else f"there is no folder {path.parent}; make it first"
        raise OSError(err.errno, reason, str(path)) from err
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return path


def partial_path(path: Path) -> Path:
    """Where a file is written before it takes its name; what a killed process of this machine left there is removed.

    Args:
        path: of the file.
    """
    begin = f"{path.name}.{_machine()}."
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            number = entry.name.removeprefix(begin).removesuffix(PARTIAL)
            if entry.name == f"{begin}{number}{PARTIAL}" and number.isdecimal() and not _is_alive(int(number)):
                Path(entry.path).unlink(missing_ok=True)
    return path.with_name(f"{begin}{os.getpid()}{PARTIAL}")


def check_is_file(path: str | Path) -> None:
    """Refuse what is no file to read from: a name that is not there, a folder, a pipe or a device.

    Args:
        path: to read from.

    Raises:
        InvalidInputError: with what it is instead.
    """
    path = Path(path)
    if path.is_dir():
        raise InvalidInputError(f"{path} is a folder, and a file is needed; name a file in it")
    if path.exists() and not path.is_file():
        raise InvalidInputError(
            f"{path} is a pipe or a device, and a file is needed; write it to a file, and name that"
        )
    if not path.is_file():
        raise InvalidInputError(f"no such file: {path}{similar_paths(path)}")


def similar_paths(path: Path) -> str:
    """The end of an error sentence: the names beside a missing file or folder that are close to its own, if any.

    Args:
        path: that does not exist.
    """
    try:
        return close_names(path.name, [p.name for p in path.parent.iterdir() if not p.name.startswith(".")])
    except OSError:  # no such folder, or one that must not be read
        return ""


@contextlib.contextmanager
def only_writer(path: Path, option: str = "--out") -> Iterator[None]:
    """Refuse where another process writes to the same file or folder, for as long as the block runs.

    A lock of the system is held on a file beside it, which ends with the process, however that ends. Where the system
    has no such locks nothing is refused.

    Args:
        path: of the results; its folder is made.
        option: the flag that named it, for the message.

    Raises:
        InvalidInputError: where another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InvalidInputError(
                f"another process is writing to {path}; wait for it, or name another place with {option}"
            ) from None
        except OSError:  # a file system without locks
            yield
            return
        if not _is_same_file(file, lock):  # the one before has removed it in this moment
            with only_writer(path, option):
                yield
            return
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _is_same_file(file: Any, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _machine() -> str:
    return "".join(c if c.isalnum() else "-" for c in socket.gethostname())[:40]


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # of another user, or no such number
        return True
    return True

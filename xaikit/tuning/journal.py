"""Optuna's journal files; half a line that a full disk or a power cut left in one is removed."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import write_whole
from xaikit.core.process_wide import warnings_ignored

ENTRY = b'{"op_code"'  # how an entry begins, one a line
LAST_BYTES = 2**16  # of the file, read to see how it ends


def open_journal(path: Path) -> Any:
    """Optuna's storage in a journal file.

    If a process died while it wrote the last line, the line has no end. No process has read such a half line, and it is
    cut off. If another process wrote behind it, both stand in one line, and the complete entry of it is kept.

    Args:
        path: the file; where there is none, a new one is made.

    Raises:
        InvalidInputError: for a file that is no journal, or is damaged in another way.

    Warns:
        UserWarning: when something was cut off.
    """
    if not _ends_are_entries(path):
        with _locked(path):
            _mend(path)
    try:
        return _open(path)
    except (ValueError, KeyError, TypeError, AttributeError):  # a line in the middle is no entry
        with _locked(path):
            _mend(path)
    try:
        return _open(path)
    except (ValueError, KeyError, TypeError, AttributeError) as err:
        raise InvalidInputError(
            f"the file {path} is no journal of a study ({type(err).__name__}: {err}); name another file"
        ) from err


def _open(path: Path) -> Any:
    import optuna
    from optuna.storages.journal import JournalFileBackend

    with warnings_ignored("", optuna.exceptions.ExperimentalWarning):
        return optuna.storages.JournalStorage(JournalFileBackend(str(path)))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While active, no process writes to the journal; a lock that a dead process left is taken over after 30 s."""
    from optuna.storages.journal import JournalFileSymlinkLock

    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _ends_are_entries(path: Path) -> bool:
    """Whether the file's first and last line are whole entries; true where it is empty or not there."""
    if not path.is_file() or not (size := path.stat().st_size):
        return True
    with path.open("rb") as file:
        first = file.readline()
        file.seek(max(0, size - LAST_BYTES))
        *_, last, unfinished = [b"", *file.read().split(b"\n")]
    return not unfinished and _is_entry(first) and _is_entry(last)


def _mend(path: Path) -> None:
    """Cut off half a line at the end; of a line with half an entry and a complete one, keep the complete one.

    Raises:
        InvalidInputError: for a line without a complete entry, since later entries depend on what it held.
    """
    content = path.read_bytes()
    *lines, half = content.split(b"\n")
    entries = []
    for number, line in enumerate(lines, 1):
        entry = line if _is_entry(line) else line[max(0, line.rfind(ENTRY)) :]
        if not _is_entry(entry):
            raise InvalidInputError(f"line {number} of the file {path} is no entry of a study; name another file")
        entries.append(entry + b"\n")
    if half and not entries and not half.startswith(ENTRY[: len(half)]):
        raise InvalidInputError(f"the file {path} is no journal of a study; name another file")
    mended = b"".join(entries)
    if mended != content:
        write_whole(path, mended)
        warnings.warn(
            f"the journal {path} held {len(content) - len(mended)} bytes of an entry that was never written to its "
            f"end; the study goes on without it",
            stacklevel=6,
        )


def _is_entry(line: bytes) -> bool:
    try:
        content = json.loads(line)
    except ValueError:
        return False
    return isinstance(content, dict) and "op_code" in content

"""Marks of a run while people edit them: edits, their history on the disk, undo, what several people do at once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import write_whole
from xaikit.files.marks import MarkFolder, MarkKey, Positions, StoredMark, from_runs, safe_path, to_runs

HISTORY = ".history"
LONGEST_TEXT = 2**24  # tokens
KEPT = 200  # edits of a mark that can be undone
MOST = 400  # lines of a history before it is written anew with the last `KEPT`


@dataclasses.dataclass(frozen=True)
class Edit:
    """One change of a mark.

    Attributes:
        number: of the edit, from 1.
        added: positions that became marked by it, as runs.
        removed: positions that did not stay marked, as runs.
        identifier: that the page gave it, so that it can send it again.
        undoes: the number of the edit that it takes back; 0 for none.
        time: seconds since 1970.
    """

    number: int
    added: list[int]
    removed: list[int]
    identifier: str = ""
    undoes: int = 0
    time: float = 0.0

    def line(self) -> str:
        """The edit as a line of the history."""
        content = {
            "number": self.number,
            "added": self.added,
            "removed": self.removed,
            "identifier": self.identifier,
            "undoes": self.undoes,
            "time": round(self.time, 3),
        }
        return json.dumps(content) + "\n"


@dataclasses.dataclass(frozen=True)
class MarkState:
    """A mark after an edit.

    Attributes:
        mark: what is marked.
        merged: whether an edit of somebody else came between, which the page had not seen.
        can_undo: whether there is an edit to take back.
        can_redo: whether there is an undo to take back.
    """

    mark: StoredMark
    merged: bool
    can_undo: bool
    can_redo: bool

    def to_json(self) -> dict[str, Any]:
        """The state as the page reads it."""
        return {
            "edit": self.mark.edit,
            "runs": to_runs(self.mark.positions),
            "merged": self.merged,
            "undo": self.can_undo,
            "redo": self.can_redo,
        }


class MarkEditor:
    """Edits marks in a folder; several threads and several servers may do so at once.

    Nothing is kept in memory. An edit is on the disk, twice, before it is answered.

    Args:
        folder: of the marks.
    """

    def __init__(self, folder: MarkFolder) -> None:
        self.folder = folder
        self._thread_lock = threading.Lock()

    def state(self, key: MarkKey, facts: Mapping[str, Any] = MappingProxyType({})) -> MarkState:
        """A mark as it is.

        Args:
            key: which mark.
            facts: of the sample.

        Raises:
            InvalidInputError: for a damaged file, or the mark of another sample of the same name.
        """
        with self._locked():
            mark, edits = self._current(key)
            self._check_sample(key, mark, facts)
        return _state(mark, edits, merged=False)

    def change(
        self, key: MarkKey, added: Positions, removed: Positions, *, base: int, identifier: str, facts: dict[str, Any]
    ) -> MarkState:
        """Mark some positions and unmark others.

        Args:
            key: which mark.
            added: to mark.
            removed: to unmark.
            base: number of the last edit that the page has seen.
            identifier: of this edit; one that is already in the history is not applied again.
            facts: of the sample, for the file.

        Raises:
            InvalidInputError: for positions outside, or a mark that is another sample's.
            OSError: when the disk refuses; the mark stays as it was.
        """
        with self._locked():
            mark, edits = self._current(key)
            self._check_sample(key, mark, facts)
            if self._is_known(key, mark, edits, identifier):
                return _state(mark, edits, merged=mark.edit != base + 1)
            limit = self._limit(key)
            if len(added) and int(added[-1]) >= limit:
                raise InvalidInputError(f"marks lie in 0..{limit - 1}, got {int(added[-1])}")
            edit = Edit(
                mark.edit + 1,
                to_runs(np.setdiff1d(added, np.concatenate([mark.positions, removed]))),
                to_runs(np.intersect1d(removed, mark.positions)),
                identifier,
                time=time.time(),
            )
            return _state(*self._apply(key, mark, edits, edit, facts or mark.facts), merged=mark.edit != base)

    def undo(self, key: MarkKey, *, redo: bool = False, identifier: str = "") -> MarkState:
        """Take the last edit back that is not taken back; or (`redo`) take back the last undo.

        Args:
            key: which mark.
            redo: whether an undo is taken back.
            identifier: of this undo; one that is already in the history is not done again.

        Raises:
            InvalidInputError: where there is nothing to take back.
            OSError: when the disk refuses.
        """
        with self._locked():
            mark, edits = self._current(key)
            if self._is_known(key, mark, edits, identifier):
                return _state(mark, edits, merged=False)
            target = _redoable(edits) if redo else _undoable(edits)
            if target is None:
                raise InvalidInputError(f"there is nothing to {'redo' if redo else 'undo'} in this mark")
            # Only what is still as the edit left it.
            added = to_runs(np.setdiff1d(from_runs(target.removed), mark.positions))
            removed = to_runs(np.intersect1d(from_runs(target.added), mark.positions))
            edit = Edit(mark.edit + 1, added, removed, identifier, target.number, time.time())
            return _state(*self._apply(key, mark, edits, edit, mark.facts), merged=False)

    def _is_known(self, key: MarkKey, mark: StoredMark, edits: list[Edit], identifier: str) -> bool:
        """Whether an edit was sent before; then its file is brought up to the history."""
        if not identifier or all(edit.identifier != identifier for edit in edits):
            return False
        if self.folder.read(key).edit != mark.edit:  # the disk was full between history and file
            self.folder.write(key, mark)
        return True

    def _apply(
        self, key: MarkKey, mark: StoredMark, edits: list[Edit], edit: Edit, facts: dict[str, Any]
    ) -> tuple[StoredMark, list[Edit]]:
        """The history first, then the file: a kill between the two is mended by `_current`."""
        self._append(key, edits, edit)
        changed = StoredMark(_after(mark.positions, edit), edit.number, facts)
        self.folder.write(key, changed)
        return changed, [*edits, edit]

    def _current(self, key: MarkKey) -> tuple[StoredMark, list[Edit]]:
        """The mark with every edit of its history, and the edits."""
        mark, edits = self.folder.read(key), self._edits(key)
        for edit in edits:
            if edit.number > mark.edit:
                mark = StoredMark(_after(mark.positions, edit), edit.number, mark.facts)
        return mark, edits

    def recover(self) -> int:
        """Bring each file up to its history, as after a kill between the two; the number of files that were behind."""
        behind = 0
        for path in (self.folder.path / HISTORY).rglob("*.jsonl"):
            key = self._key_of(path)
            if key is None:
                continue
            with self._locked():
                mark, _ = self._current(key)
                if mark.edit != self.folder.read(key).edit:
                    self.folder.write(key, mark)
                    behind += 1
        return behind

    def _key_of(self, path: Path) -> MarkKey | None:
        """The mark of a history: its first line names it."""
        try:
            with path.open(encoding="utf-8") as file:
                key = json.loads(file.readline())["key"]
            return MarkKey(*key)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _history(self, key: MarkKey) -> Path:
        home = self.folder.path / HISTORY / key.meaning
        return home / "all.jsonl" if key.scope == "all" else home / key.scope / safe_path(key.name, ".jsonl")

    def _edits(self, key: MarkKey) -> list[Edit]:
        """The edits of the history; a line that a kill cut off was never answered, and is left out."""
        path = self._history(key)
        if not path.is_file():
            return []
        edits: list[Edit] = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                content = json.loads(line)
                if "number" not in content:
                    continue
                edits.append(
                    Edit(
                        content["number"],
                        content["added"],
                        content["removed"],
                        content["identifier"],
                        content["undoes"],
                        content["time"],
                    )
                )
            except (ValueError, KeyError, TypeError):
                continue
        return edits

    def _append(self, key: MarkKey, edits: list[Edit], edit: Edit) -> None:
        path = self._history(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        head = json.dumps({"key": [key.meaning, key.scope, key.name]}) + "\n"
        if not path.is_file() or len(edits) >= MOST:
            write_whole(path, head + "".join(e.line() for e in [*edits[-KEPT:], edit]))
            return
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a kill cut the last line off
                    file.write(b"\n")
            try:
                file.write(edit.line().encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError as err:
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise OSError(err.errno, err.strerror, str(path)) from err

    def _limit(self, key: MarkKey) -> int:
        """The first position that a mark cannot have: texts have several lengths, wide marks of them hold token ids."""
        if self.folder.kind != "text":
            return int(np.prod(self.folder.shape))
        return LONGEST_TEXT if key.scope == "sample" else np.iinfo(np.int64).max

    def _check_sample(self, key: MarkKey, mark: StoredMark, facts: Mapping[str, Any]) -> None:
        name = mark.facts.get("name")
        if key.scope == "sample" and name and name != key.name:
            raise InvalidInputError(
                f"{self.folder.file_of(key)} is the mark of {name}, whose name differs from {key.name} in its ending "
                "only; rename one of them and explain the data again"
            )
        before, now = mark.facts.get("fingerprint"), facts.get("fingerprint")
        if key.scope == "sample" and before and now and before != now:
            raise InvalidInputError(
                f"{self.folder.file_of(key)} is the mark of another sample of the same name ({key.name}, with other "
                "content); name another folder with --marks"
            )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One edit at a time, in this process and, where the system has locks, among all."""
        with self._thread_lock:
            try:
                import fcntl
            except ImportError:  # Windows
                yield
                return
            home = self.folder.path / HISTORY
            home.mkdir(parents=True, exist_ok=True)
            with (home / "lock").open("a") as file:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX)
                yield


def _after(positions: Positions, edit: Edit) -> Positions:
    return np.union1d(np.setdiff1d(positions, from_runs(edit.removed)), from_runs(edit.added))


def _state(mark: StoredMark, edits: list[Edit], *, merged: bool) -> MarkState:
    return MarkState(mark, merged, _undoable(edits) is not None, _redoable(edits) is not None)


def _stacks(edits: list[Edit]) -> tuple[list[Edit], list[Edit]]:
    """The edits that can be undone, and the undos that can be taken back."""
    undoable: list[Edit] = []
    undone: list[Edit] = []
    for edit in edits:
        if not edit.undoes:
            undoable.append(edit)
            undone.clear()
        elif undone and undone[-1].number == edit.undoes:
            undone.pop()
            undoable.append(edit)
        elif undoable and undoable[-1].number == edit.undoes:
            undoable.pop()
            undone.append(edit)
    return undoable, undone


def _undoable(edits: list[Edit]) -> Edit | None:
    return next(reversed(_stacks(edits)[0]), None)


def _redoable(edits: list[Edit]) -> Edit | None:
    return next(reversed(_stacks(edits)[1]), None)

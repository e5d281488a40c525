"""Studies in a journal that was torn: what was written whole goes on, and anything else is refused by name."""

from __future__ import annotations

import inspect
import warnings

import pytest
import torch
from torch import nn

from xaikit import SmoothGrad, tune
from xaikit.core.errors import InvalidInputError
from xaikit.tuning.optuna_private import disconnect
from xaikit.tuning.study import open_storage

NET = nn.Linear(4, 2)
DATA = (torch.rand(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 3))


def search(path, n_trials, **options):
    options = {"storage": str(path), "study_name": "s", "progress": False, **options}
    return tune(SmoothGrad(NET), "abpc:n_steps=2", DATA, n_trials=n_trials, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    """A journal of two trials."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("journal") / "study.journal"
    search(path, 2)
    return path.read_bytes()


@pytest.mark.parametrize("cut", [1, 2, 7, 30])
def test_half_a_line_at_the_end_is_left_out(whole, cut, tmp_path):
    path = tmp_path / "study.journal"
    last = len(whole[:-1]) - whole[:-1].rfind(b"\n")
    path.write_bytes(whole[: len(whole) - min(cut, last - 1)])
    with pytest.warns(
        UserWarning, match=r"study\.journal held \d+ bytes of an entry that was never written to its end"
    ):
        found = search(path, 2, resume=True)
    assert len([row for row in found.trials if row["state"] == "complete"]) >= 3
    assert path.read_bytes().endswith(b"\n")
    assert path.read_bytes().startswith(whole[: whole[:-1].rfind(b"\n") + 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(search(path, 1, resume=True).trials) > len(found.trials) - 1


@pytest.mark.parametrize(
    "half", [b'{"op_code": 4, "work', b'{"op', b"\0" * 40, b'{"op_code":8,"worker_id":"a","trial_id":1']
)
def test_an_entry_that_was_written_behind_half_a_line_is_kept(whole, half, tmp_path):
    path = tmp_path / "study.journal"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-3]) + half + b"".join(lines[-3:]))
    with pytest.warns(UserWarning, match=f"held {len(half)} bytes"):
        open_storage(path)
    assert path.read_bytes() == whole


def test_a_whole_journal_is_left_alone(whole, tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_storage(path)
    assert path.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", [b"Dear diary\n", b"Dear diary", b'{"a": 1}\n', b"[1]\n", b"\x89PNG\r\n\x1a\n\0\0", b"{}\n{}\n"]
)
def test_what_is_no_journal_is_refused_and_left_as_it_is(content, tmp_path):
    path = tmp_path / "notes.log"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"notes\.log.* name another file") as caught:
        search(path, 1)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_entry_inside_is_refused_by_its_line(whole, tmp_path):
    path = tmp_path / "study.journal"
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"?" * 20 + b"\n", *lines[2:]]))
    with pytest.raises(InvalidInputError, match=r"line 2 of the file .*study\.journal is no entry"):
        search(path, 1, resume=True)


def test_a_damaged_database_says_so(tmp_path):
    path = tmp_path / "study.db"
    path.write_bytes(b"no database at all, but long enough to be read as a header of one" * 20)
    with pytest.raises(InvalidInputError, match="damaged or no SQLite database: move it away, or name another file"):
        search(f"sqlite:///{path}", 1)


def test_a_lock_that_a_dead_process_left_is_taken_over_in_time():
    """Early versions of Optuna 4 had no grace period: a lock stayed for ever; `_locked` relies on its grace period."""
    from optuna.storages.journal import JournalFileSymlinkLock

    assert 0 < inspect.signature(JournalFileSymlinkLock).parameters["grace_period"].default <= 60


def test_disconnect_closes_the_connections_of_a_database(tmp_path):
    storage = open_storage(f"sqlite:///{tmp_path}/study.db")
    storage.get_all_studies()
    pool = storage.engine.pool  # where Optuna keeps it; if it moves, disconnect does nothing
    disconnect(storage)
    assert storage.engine.pool is not pool
    assert storage.get_all_studies() == []
    disconnect(open_storage(f"{tmp_path}/study.journal"))  # a journal has none

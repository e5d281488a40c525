"""Files are written whole, by one process at a time, and what a kill leaves behind is removed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xaikit.core.errors import InvalidInputError
from xaikit.core.files import only_writer, partial_path, write_whole

HOLD = """
import sys, time
from pathlib import Path
from xaikit.core.files import only_writer, partial_path
with only_writer(Path("out")):
    partial_path(Path("a.txt")).write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.mark.nightly
def test_what_a_killed_process_leaves_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock ends with the process; the partial file goes when the file is written next."""
    monkeypatch.chdir(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    with process, process.stdout:
        try:
            assert process.stdout.readline() == "ready\n"
            assert len(list(tmp_path.glob("a.txt.*.partial"))) == 1
            with (
                pytest.raises(InvalidInputError, match="another process is writing to out; .* with --out"),
                only_writer(Path("out")),
            ):
                pass
            write_whole(tmp_path / "a.txt", "one")
            assert len(list(tmp_path.glob("a.txt.*.partial"))) == 1  # of a process that is alive
        finally:
            process.kill()
    with only_writer(Path("out")), only_writer(Path("other")):
        write_whole(tmp_path / "a.txt", "two")
    assert (tmp_path / "a.txt").read_text() == "two"
    assert not list(tmp_path.glob("*.partial"))
    assert not list(tmp_path.glob(".*.lock"))


def test_partial_files_of_others_stay(tmp_path: Path) -> None:
    names = ("a.txt.elsewhere.1.partial", "a.txt.partial", "b.txt.x.99999999.partial", f"a.txt.{os.getpid()}.partial")
    for name in names:
        (tmp_path / name).write_text("x")
    write_whole(tmp_path / "a.txt", "y")
    assert {p.name for p in tmp_path.iterdir()} == {"a.txt", *names}
    assert partial_path(tmp_path / "a.txt").name.endswith(f".{os.getpid()}.partial")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no folder .*run; make it first: '.*run/a.npz'"):
        write_whole(tmp_path / "run" / "a.npz", b"")

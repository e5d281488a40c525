"""Damaged files of every kind name themselves; `tests.damaged_files` runs more of them."""

from __future__ import annotations

import os
import signal
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.damaged_files import READERS, judge, write_all
from xaikit.core.archives import check_archive
from xaikit.core.errors import InvalidInputError, XaikitError


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("damaged"))


@pytest.mark.parametrize("kind", READERS)
def test_a_whole_file_is_read(files: dict[str, Path], kind: str) -> None:
    content = files[kind].read_bytes()
    READERS[kind](files[kind])
    files[kind].write_bytes(content)


@pytest.mark.parametrize("first", range(len(READERS)))
def test_damaged_files_name_themselves(files: dict[str, Path], first: int) -> None:
    contents = {name: path.read_bytes() for name, path in files.items()}
    problems = [judge(files, contents, first + len(READERS) * k) for k in range(8)]
    assert not any(problems), problems


@pytest.fixture
def patience() -> Iterator[None]:
    """A reader that waits for a pipe is ended."""

    def end(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize("kind", [kind for kind in READERS if "/" not in kind])
def test_a_pipe_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    os.mkfifo(path)
    with pytest.raises(XaikitError, match="file"):
        READERS[kind](path)


@pytest.mark.parametrize("kind", ["checkpoint.pt", "weights.pt"])
def test_a_flipped_bit_in_weights_is_told(files: dict[str, Path], kind: str) -> None:
    """torch itself reads such a file without a word."""
    content = files[kind].read_bytes()
    with zipfile.ZipFile(files[kind]) as archive:
        name = next(n for n in archive.namelist() if "/data/" in n)
        stored = archive.read(name)
    at = content.index(stored)
    damaged = bytearray(content)
    damaged[at] ^= 1
    files[kind].write_bytes(bytes(damaged))
    try:
        with pytest.raises(InvalidInputError, match=rf"{kind} is damaged \(Bad CRC"):
            READERS[kind](files[kind])
    finally:
        files[kind].write_bytes(content)


def test_a_zip_bomb_under_the_name_of_weights(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data.pkl", bytes(10**7))
    with pytest.raises(InvalidInputError, match="claim more bytes than the file has"):
        check_archive(path)
    torch.save({"a": torch.ones(2)}, path)
    check_archive(path)
    np.save(tmp_path / "a.npy", np.ones(2))
    check_archive(tmp_path / "a.npy")

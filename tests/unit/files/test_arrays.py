"""Arrays: numbers only, and no more memory than the file holds."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from xaikit.core import archives
from xaikit.core.errors import InvalidInputError
from xaikit.files.arrays import read_npy, read_npz


@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_damaged_arrays_name_themselves(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    values = np.arange(300.0).reshape(10, 30)
    np.save(path, values) if ending == "npy" else np.savez_compressed(path, x=values, y=np.arange(10))
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for trial in range(150):
        damaged = bytearray(whole[: int(random.integers(len(whole)))] if trial % 3 == 0 else whole)
        for at in random.integers(0, min(200, max(1, len(damaged))), 5) if damaged else ():
            damaged[at] = int(random.integers(256))
        path.write_bytes(bytes(damaged))
        try:
            np.array(read_npy(path)) if ending == "npy" else read_npz(path)
        except InvalidInputError as err:
            assert path.name in str(err)  # noqa: PT017 (damage to a value of a .npy cannot be told)


def test_a_header_that_claims_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3)))
    path.write_bytes(path.read_bytes().replace(b"(2, 3), }", b"(9999999999, 3), }"))
    with pytest.raises(InvalidInputError, match=r"a\.npy is not an array"):
        read_npy(path)


def test_a_zip_that_unpacks_to_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000)))
    monkeypatch.setattr(archives, "memory", lambda: 1_000_000)
    with pytest.raises(InvalidInputError, match=r"a\.npz unpacks to 0 GiB, more than this machine's memory"):
        read_npz(tmp_path / "a.npz")


def test_pickles_text_pipes_and_foreign_zips_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidInputError, match="--target .*a.npy is not an array"):
        read_npy(tmp_path / "a.npy", "--target")
    np.save(tmp_path / "b.npy", np.array(["a"]))
    with pytest.raises(InvalidInputError, match="must hold numbers alone, it holds strings"):
        read_npy(tmp_path / "b.npy")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("x", "text")
    with pytest.raises(InvalidInputError, match=r"c\.npz"):
        read_npz(tmp_path / "c.npz")
    os.mkfifo(tmp_path / "d.npy")
    with pytest.raises(InvalidInputError, match="is a pipe or a device"):
        read_npy(tmp_path / "d.npy")

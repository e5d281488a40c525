"""Arrays in .npy and .npz files: numbers only, and never more memory than the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaikit.core.archives import check_unpacked_size
from xaikit.core.errors import InvalidInputError
from xaikit.core.files import check_is_file


def read_npy(path: Path, option: str = "") -> NDArray[Any]:
    """The array in a .npy file, read from the disk when its values are used.

    Args:
        path: of the file.
        option: the flag that named it, for the message.

    Raises:
        InvalidInputError: for a file that holds no array of numbers, or is shorter than its header says.
    """
    check_is_file(path)
    try:
        return _numbers(np.load(path, allow_pickle=False, mmap_mode="r"), path, option)
    except Exception as err:  # a file may hold anything, and whatever that raises is a finding about the file
        raise _damaged(path, option, err) from None


def read_npz(path: Path, option: str = "") -> dict[str, NDArray[Any]]:
    """The arrays in a .npz file by name.

    Args:
        path: of the file.
        option: the flag that named it, for the message.

    Raises:
        InvalidInputError: for a file that holds anything but arrays of numbers, or more than the memory can hold.
    """
    check_is_file(path)
    try:
        check_unpacked_size(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: _numbers(file[name], path, option) for name in file.files}
    except Exception as err:  # a file may hold anything, and whatever that raises is a finding about the file
        raise _damaged(path, option, err) from None


def _numbers(array: Any, path: Path, option: str) -> NDArray[Any]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
        strings = getattr(array, "dtype", None) is not None and array.dtype.kind in "US"
        content = "strings, as results of xaikit do" if strings else getattr(array, "dtype", type(array))
        raise InvalidInputError(f"{_named(path, option)} must hold numbers alone, it holds {content}")
    return array


def _damaged(path: Path, option: str, err: BaseException) -> InvalidInputError:
    if isinstance(err, InvalidInputError):
        return err
    return InvalidInputError(f"{_named(path, option)} is not an array of numbers ({' '.join(str(err).split())[:120]})")


def _named(path: Path, option: str) -> str:
    return f"{option} {path}" if option else str(path)

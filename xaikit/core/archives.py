"""Archives before they are read: whether they are whole (torch does not compare checksums), how large they are."""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path

from xaikit.core.errors import InvalidInputError

CHUNK = 2**24  # bytes that are read at a time


def check_archive(path: Path) -> None:
    """Refuse a damaged archive of torch.save; files of another form are left to torch.

    Args:
        path: of a file.

    Raises:
        InvalidInputError: for a file that is none, a pipe, or an archive whose checksums or sizes are wrong.
    """
    if not path.is_file():
        raise InvalidInputError(f"{path} is not a file")
    try:
        problem = _problem(path)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, RuntimeError, NotImplementedError, EOFError) as err:
        problem = " ".join(str(err).split())[:120]
    if problem:
        raise InvalidInputError(f"{path} is damaged ({problem})")


def _problem(path: Path) -> str:
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        # torch does not compress, so what the parts claim to hold cannot be more than the file.
        if sum(part.file_size for part in parts) > path.stat().st_size:
            return "its parts claim more bytes than the file has"
        for part in parts:
            with archive.open(part) as file:
                while file.read(CHUNK):  # compares the checksum at the end
                    pass
    return ""


def check_unpacked_size(path: Path) -> None:
    """Refuse a zip archive that holds more than the memory.

    Args:
        path: of a .npz, or of another zip archive.

    Raises:
        InvalidInputError: which names the size.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(item.file_size for item in archive.infolist())
    if size > memory():
        raise InvalidInputError(f"{path} unpacks to {size / 2**30:.0f} GiB, more than this machine's memory")


def memory() -> int:
    """Bytes of memory of this machine; a large number where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 2**40

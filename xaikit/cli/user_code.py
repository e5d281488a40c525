"""The line of the user's own code that an error comes from."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import xaikit


def line_of_user(err: BaseException) -> str:
    """File, line and function of the user's code that an error comes from; empty where it is a library's."""
    libraries = (
        Path(xaikit.__file__).parent,
        *map(Path, {sysconfig.get_path(n) for n in ("stdlib", "purelib", "platlib")}),
    )
    place = ""
    for frame in traceback.extract_tb(err.__traceback__):
        file = Path(frame.filename)
        if (
            file.exists()
            and not any(file.is_relative_to(folder) for folder in libraries)
            and "site-packages" not in file.parts
        ):
            place = f"{file.name}, line {frame.lineno}, in {frame.name}"
    return place

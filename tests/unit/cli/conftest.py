"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from xaikit.cli import main


@pytest.fixture(scope="session")
def leave() -> Callable[..., int]:
    """Runs the command line on some words; the exit code."""

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as left:
            main.run(arguments)
        return int(left.value.code or 0)

    return run

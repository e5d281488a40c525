"""The command as a whole: exit codes, errors as one sentence, start-up."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

import xaikit
from xaikit.cli import main
from xaikit.core.errors import InvalidInputError, TrainingError


def fail_with(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail() -> None:
        raise error

    broken = main.typer.Typer(pretty_exceptions_enable=False)
    broken.command("broken")(fail)
    monkeypatch.setattr(main, "app", broken)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom xaikit.cli.main import run\ntry:\n    run(['--help'])\nexcept SystemExit as left:\n"
        "    print(left.code, sorted({'torch', 'numpy', 'matplotlib', 'sklearn', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    for verb in ("list", "explain", "demo"):
        assert f"\n  {verb} " in done.stdout


def test_version(leave: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("--version") == 0
    assert capsys.readouterr().out.strip() == xaikit.__version__


@pytest.mark.parametrize("arguments", [["nonsense"], ["explain"], ["list", "--nonsense"], ["list", "smothgrad"]])
def test_a_wrong_call_exits_with_2(
    leave: Callable[..., int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(*arguments) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InvalidInputError("labels must lie in 0..9"), 2, "xaikit: labels must lie in 0..9"),
        (TrainingError("the loss is not\nfinite"), 1, "xaikit: the loss is not finite"),
        (KeyError("x"), 1, "raised KeyError: x (--debug shows where)"),
        (OSError(28, "No space left on device", "a.npz"), 1, "xaikit: a.npz: No space left on device"),
    ],
)
def test_an_error_is_one_sentence(
    leave: Callable[..., int],
    error: Exception,
    code: int,
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fail_with(monkeypatch, error)
    assert leave() == code
    shown = capsys.readouterr().err
    assert sentence in shown
    assert shown.count("\n") == 1


def test_a_display_that_is_not_there_is_not_asked_for(
    leave: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    assert leave("--version") == 0
    assert os.environ["MPLBACKEND"] == "agg"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(monkeypatch, KeyError("x"))
    with pytest.raises(KeyError):
        main.run(["--debug"])

"""The `xaikit` command: verbs, errors as one sentence, exit codes.

The codes: 0 done, 1 the job failed, 2 the call is wrong, 3 a model relies on a shortcut and --fail-if-relies stands.

Nothing heavy is imported here or at the top of a verb's module, so that ``xaikit --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import xaikit
from xaikit.cli import (
    assess,
    atlas,
    demo,
    doctor,
    evaluate,
    explain,
    listing,
    mend,
    mitigate,
    processes,
    recommend,
    report,
    run_file,
    scan,
    shortcuts,
    studio,
    summarise,
    tune,
)
from xaikit.cli.flags import in_flags
from xaikit.cli.job import command
from xaikit.cli.printing import printable
from xaikit.cli.user_code import line_of_user

app = typer.Typer(
    name="xaikit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 the job failed, 2 the call is wrong, 3 it relies on a shortcut (--fail-if-relies).",
)
for verb in (
    listing.List,
    explain.Explain,
    evaluate.Evaluate,
    recommend.Recommend,
    tune.Tune,
    scan.FactorScan,
    mend.Mend,
    mitigate.Mitigate,
    assess.Assess,
    assess.Compare,
    shortcuts.Shortcuts,
    atlas.MakeAtlas,
    report.WriteReport,
    summarise.SummariseRun,
    studio.OpenStudio,
    doctor.Doctor,
    run_file.RunFile,
    demo.Demo,
):
    app.command(verb.VERB)(command(verb))
app.command("tune-worker", hidden=True)(tune.tune_worker)
app.command("worker", hidden=True)(processes.run_worker)


def _version(show: bool) -> None:
    if show:
        typer.echo(xaikit.__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Find out why a PyTorch model decides as it does, and train it to be right for the right reasons."""


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code.

    Raises:
        SystemExit: always.
    """
    command_line = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in command_line
    os.environ["MPLBACKEND"] = "agg"  # figures are written to files, so no display is needed
    with warnings.catch_warnings():
        warnings.showwarning = _note  # type: ignore[assignment]  # the file and the line are nothing to a user
        try:
            app([a for a in command_line if a != "--debug"], prog_name="xaikit")
        except Exception as err:
            if debug:
                raise
            typer.echo(f"xaikit: {printable(_sentence(err))}", err=True)
            sys.exit(_exit_code(err))


def _note(message: Warning | str, category: type[Warning], *_: Any) -> None:
    if not issubclass(category, DeprecationWarning):
        typer.echo(f"xaikit: note: {printable(str(message))}", err=True)


def _exit_code(err: Exception) -> int:
    from xaikit.core.errors import (
        InvalidInputError,
        InvalidTypeError,
        NonFiniteError,
        NotDifferentiableError,
        UnknownNameError,
    )

    wrong_calls = (InvalidInputError, InvalidTypeError, NotDifferentiableError, UnknownNameError)
    return 2 if isinstance(err, wrong_calls) and not isinstance(err, NonFiniteError) else 1


def _sentence(err: Exception) -> str:
    """The message of an error; for an error that is no message for users also its type, and how to see more."""
    from xaikit.core.errors import XaikitError

    if isinstance(err, OSError) and err.strerror and err.filename:
        return f"{err.filename}: {err.strerror}"
    if isinstance(err, OSError) and err.strerror:
        return err.strerror
    # str() of a LookupError can be the repr of its message.
    text = " ".join((str(err.args[0]) if len(err.args) == 1 else str(err)).split())
    if isinstance(err, XaikitError):
        return in_flags(text)
    place = line_of_user(err)
    return f"{f'your code ({place}) raised ' if place else ''}{type(err).__name__}: {text} (--debug shows where)"

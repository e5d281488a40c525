"""Job: the options of a verb. One pydantic class defines its flags, its YAML and its TOML.

A verb is a class: its fields are the flags, its docstring the help, its `run` the work.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import types
import typing
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from xaikit.cli.printing import printable

JOBS: dict[str, type[Job]] = {}
INTERRUPTED = 130  # the exit code after Ctrl-C, as shells have it


def argument(default: Any = ..., *, metavar: str, help: str) -> Any:  # noqa: A002 (typer's word)
    """A field that is a positional argument, not a flag."""
    return Field(default, description=help, json_schema_extra={"metavar": metavar})


def flag(default: Any = ..., *, help: str, name: str = "") -> Any:  # noqa: A002
    """A field that is a flag; its name is the field's unless `name` gives another."""
    return Field(default, description=help, json_schema_extra={"flag": name} if name else None)


class Job(BaseModel):
    """The options of a verb: frozen, validated, and the same from flags and from a file."""

    # A verb's validator is built when the verb runs, not for each of them when `xaikit --help` is asked for.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True, defer_build=True)
    VERB: ClassVar[str] = ""

    quiet: bool = flag(False, help="Show no progress and no notes.")
    json_output: bool = flag(False, name="--json", help="Print the result as JSON, for scripts.")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__dict__.get("VERB"):
            JOBS[cls.VERB] = cls

    def run(self) -> int:
        """Do the work.

        Returns:
            The exit code.
        """
        raise NotImplementedError

    def how_to_go_on(self) -> str:
        """What Ctrl-C leaves behind, and how the work goes on: the end of a sentence."""
        return "nothing was written"

    def written_alone(self) -> Path | None:
        """The results that no other process may write to at the same time; None where that does no harm."""
        return None

    def note(self, text: str) -> None:
        """Print a note on standard error, unless --quiet."""
        if not self.quiet:
            typer.echo(f"xaikit: note: {printable(text)}", err=True)

    def tell(self, text: str, /, **result: Any) -> None:
        """Print the result on standard output: as text, or with --json as one JSON object."""
        typer.echo(json.dumps(result) if self.json_output else printable(text, lines=True))

    def save(self, path: Path) -> Path:
        """Write the job as .yaml, .toml or .json: the verb and what differs from its defaults.

        Raises:
            InvalidInputError: for another ending.
        """
        from xaikit.core.files import write_whole

        content = {"verb": self.VERB, **json.loads(self.model_dump_json(exclude_defaults=True))}
        writers: dict[str, Callable[[], str]] = {
            ".yaml": lambda: _yaml().safe_dump(content, sort_keys=False, allow_unicode=True),
            ".toml": lambda: _tomli_w().dumps({k: v for k, v in content.items() if v is not None}),
            ".json": lambda: json.dumps(content, indent=2) + "\n",
        }
        text = writers[_ending(path)]()
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_whole(path, text)


def load_job(path: Path) -> Job:
    """The job in a .yaml, .toml or .json file.

    Raises:
        InvalidInputError: for a file that is none, an unknown verb, or fields that cannot be right; all are named.
    """
    import tomllib

    from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names
    from xaikit.core.files import check_is_file

    check_is_file(path)

    readers: dict[str, Callable[[str], Any]] = {
        ".yaml": _read_yaml,
        ".toml": tomllib.loads,
        ".json": lambda t: json.loads(t, object_pairs_hook=_each_once),
    }
    ending = _ending(path)
    try:
        content = readers[ending](path.read_text(encoding="utf-8"))
    except Exception as err:
        raise InvalidInputError(f"{path} is not {ending[1:].upper()} ({' '.join(str(err).split())[:120]})") from None
    if not isinstance(content, dict) or "verb" not in content:
        raise InvalidInputError(f"{path} is no job: it must name its verb, one of {', '.join(JOBS)}")
    verb = content.pop("verb")
    if verb not in JOBS:
        raise UnknownNameError(f"{path}: there is no verb {verb!r}{near_names(str(verb), JOBS)}")
    return make(JOBS[verb], content, where=f"{path}: ", dashed=False)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The keys and values of a JSON object, none of them twice."""
    names = [name for name, _ in pairs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"{twice!r} stands there twice")
    return dict(pairs)


def _read_yaml(text: str) -> Any:
    """The content of a YAML file, no key of it twice, which YAML's library lets pass."""
    yaml = _yaml()
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(node, yaml.MappingNode):
        _each_once([(str(key.value), None) for key, _ in node.value])
    return yaml.safe_load(text)


def make(job: type[Job], fields: dict[str, Any], *, where: str = "", dashed: bool = True) -> Job:
    """The job with these fields.

    Raises:
        InvalidInputError: for fields that cannot be right; all are named, as flags (`dashed`) or as keys.
    """
    from xaikit.core.errors import InvalidInputError, near_names

    try:
        return job(**fields)
    except ValidationError as err:
        problems = []
        for problem in err.errors():
            name = str(problem["loc"][0]) if problem["loc"] else ""
            flag = f"--{name.replace('_', '-')}" if dashed else name
            if problem["type"] == "extra_forbidden":
                problems.append(f"{job.VERB} has no {name!r}{near_names(name, job.model_fields)}")
            elif problem["type"] == "missing":
                problems.append(f"{flag} is missing")
            else:
                problems.append(f"{flag}: {problem['msg'].removeprefix('Value error, ')}".strip(": "))
        raise InvalidInputError(where + "; ".join(problems)) from None


def run_job(job: Job, *, silent: bool = False) -> int:
    """Run a job as the only writer of its results; the exit code, also after Ctrl-C.

    Args:
        job: of any verb.
        silent: leave it to another process to say that the job was interrupted.
    """
    from xaikit.core.files import only_writer

    path = job.written_alone()
    try:
        with contextlib.nullcontext() if path is None else only_writer(path):
            return job.run()
    except KeyboardInterrupt:
        if not silent:
            typer.echo(f"xaikit: interrupted; {job.how_to_go_on()}", err=True)
        return INTERRUPTED


def command(job: type[Job]) -> Callable[..., None]:
    """The function that typer makes a verb of: one parameter for each field, and --save-job."""

    def verb(**options: Any) -> None:
        path = options.pop("save_job")
        parsed = make(job, options)
        if path is not None:
            typer.echo(f"wrote {parsed.save(path)}")
            return
        if parsed.quiet:
            warnings.simplefilter("ignore")
        code = run_job(parsed)
        if code:
            raise typer.Exit(code)

    # pydantic has read the annotations; to read them again for each verb takes longer than all the rest.
    parameters = [_parameter(name, field, field.annotation) for name, field in job.model_fields.items()]
    # Those without a default come first, as a signature wants it; what every verb has, last.
    parameters.sort(key=lambda p: (p.default is not inspect.Parameter.empty, p.name in Job.model_fields))
    parameters.append(
        inspect.Parameter(
            "save_job",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None,
                typer.Option(help="Save this call as .yaml, .toml or .json, for xaikit run; do not run it."),
            ],
        )
    )
    keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    verb.__signature__ = inspect.Signature(keyword)  # type: ignore[attr-defined]
    verb.__annotations__ = {p.name: p.annotation for p in keyword}
    verb.__doc__ = inspect.getdoc(job)
    verb.__name__ = job.VERB
    return verb


def _parameter(name: str, field: FieldInfo, hint: Any) -> inspect.Parameter:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    spec: Any = typer.Option(*([str(extra["flag"])] if "flag" in extra else []), help=field.description)
    if "metavar" in extra:
        spec = typer.Argument(metavar=str(extra["metavar"]), help=field.description)
    default = inspect.Parameter.empty if field.default is PydanticUndefined else field.default
    default = list(default) if isinstance(default, tuple) else default
    annotation: Any = Annotated[_for_typer(hint), spec]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _for_typer(hint: Any) -> Any:
    """Typer knows lists, not tuples of any length."""
    return types.GenericAlias(list, typing.get_args(hint)[:1]) if typing.get_origin(hint) is tuple else hint


def _ending(path: Path) -> str:
    from xaikit.core.errors import InvalidInputError

    ending = {".yml": ".yaml"}.get(path.suffix, path.suffix)
    if ending not in (".yaml", ".toml", ".json"):
        raise InvalidInputError(f"a job is a .yaml, .toml or .json file, got {path.name!r}")
    return ending


def _yaml() -> Any:
    return _library("yaml", "pyyaml")


def _tomli_w() -> Any:
    return _library("tomli_w", "tomli-w")


def _library(name: str, package: str) -> Any:
    import importlib

    from xaikit.core.errors import MissingDependencyError

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingDependencyError(f"this needs {package}: pip install 'xaikit[cli]'") from None

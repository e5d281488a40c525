"""`xaikit run`: a job file does what its flags would do."""

from __future__ import annotations

import inspect
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from xaikit.cli.job import Job, argument, flag, load_job, run_job

# Fields of a job that can name code as module:object.
CODE_FIELDS = ("model", "data", "test")
LIBRARIES = ("torchvision", "timm", "hf")
DEMO = "xaikit.cli.demo_digits:make_network"


class RunFile(Job):
    """Run a job file: the verb and its options, as --save-job writes them.

    --quiet and --json hold for that job too. --save-job writes it again; another ending gives another format.
    A job names a model as module:factory, and running it runs that code. Code outside the current folder is refused,
    so that a file from somebody else cannot call any function on this machine; --trust allows it.

    \b
    Examples:
      xaikit explain cat.jpg --model torchvision:resnet18 --save-job job.yaml
      xaikit run job.yaml
    """  # noqa: D301

    VERB = "run"

    job: Path = argument(metavar="JOB", help="A .yaml, .toml or .json file.")
    trust: bool = flag(False, help="Let the job run code from outside the current folder.")

    def run(self) -> int:
        """Run the job in the file.

        Raises:
            InvalidInputError: for a job that names code outside the current folder, without --trust.
        """
        job = self._load()
        if not self.trust:
            for field in CODE_FIELDS:
                _check_local(self.job, field, str(getattr(job, field, "") or ""))
        return run_job(job)

    def save(self, path: Path) -> Path:
        """Write the job in the file, not this one that names it."""
        return self._load().save(path)

    def _load(self) -> Job:
        from xaikit.core.errors import InvalidInputError

        job = load_job(self.job)
        if isinstance(job, RunFile):
            raise InvalidInputError(f"{self.job} only names another job; run that one")
        return job.model_copy(update={name: True for name in Job.model_fields if getattr(self, name)})


def _check_local(job: Path, field: str, name: str) -> None:
    """Refuse ``module:object`` of which the module, or a function called with settings, is not in this folder."""
    from xaikit.core.errors import InvalidInputError

    module, colon, item = name.partition(":")
    if not colon or module in LIBRARIES or name == DEMO or Path(name).exists():
        return
    local = _is_below_here(module) if module.endswith(".py") else _is_local_module(module)
    if local and (":" not in item or _is_local_object(name)):
        return
    raise InvalidInputError(
        f"{job}: the {field} {name!r} is code from outside this folder ({Path.cwd()}), and running it could do "
        "anything; if you trust the file, run it with --trust"
    )


def _is_local_module(name: str) -> bool:
    """Whether a module, and each package that it lies in, is a file of this folder and no link out of it."""
    top, *_ = parts = name.split(".")
    loaded = sys.modules.get(top)
    if loaded is not None and not _is_below_here(
        getattr(loaded, "__file__", None) or _first(getattr(loaded, "__path__", ()))
    ):
        return False
    if loaded is None and top in sys.stdlib_module_names:
        return False
    folders = [str(Path.cwd())]
    for part in parts:
        spec = PathFinder.find_spec(part, folders)
        if spec is None:
            return False
        folders = list(spec.submodule_search_locations or ())
        if not _is_below_here(spec.origin or _first(folders)):
            return False
    return True


def _first(folders: Any) -> str | None:
    """The first of the folders of a package; None for none."""
    return next(iter(folders), None)


def _is_local_object(name: str) -> bool:
    """Whether a factory is defined in this folder, not imported there from elsewhere (``from os import system``)."""
    from xaikit.cli.user_imports import imported

    module, _, item = name.partition(":")
    factory: Any = imported(f"{module}:{item.partition(':')[0]}", "the model", "module:factory")
    try:
        return _is_below_here(inspect.getfile(inspect.unwrap(factory)))
    except TypeError:  # a built-in function has no file
        return False


def _is_below_here(file: str | None) -> bool:
    return file is not None and Path(file).resolve().is_relative_to(Path.cwd().resolve())

"""Objects of the user's own modules: ``module:name`` or ``./file.py:name``."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from xaikit.cli.user_code import line_of_user
from xaikit.core.errors import InvalidInputError, UnknownNameError, close_names, near_names
from xaikit.core.files import similar_paths


def imported(name: str, what: str, form: str) -> Any:
    """The object that ``module:name`` means, found from the current folder too.

    Args:
        name: what the user wrote.
        what: it is for, in messages.
        form: of such a name, in messages.

    Raises:
        UnknownNameError: when the module, the name in it, or what the module imports is not there.
        InvalidInputError: for a word of another form, or a module that is no Python or ends the program.
    """
    module_name, colon, item = name.partition(":")
    if not colon or not module_name or not item:
        raise InvalidInputError(f"{what} is named {form!r}, got {name!r}")
    is_file = module_name.endswith(".py")
    if not is_file and "/" in module_name:
        raise InvalidInputError(f"{what} is in a Python file, such as ./file.py:{item}, got {name!r}")
    with current_folder(), no_exit(name):
        try:
            module = _module_of(Path(module_name), what) if is_file else importlib.import_module(module_name)
        except SyntaxError as err:
            place = f"{Path(err.filename).name}, line {err.lineno}" if err.filename else module_name
            raise InvalidInputError(
                f"{what} cannot be imported from {name!r}: {place} is no Python ({err.msg})"
            ) from None
        except ModuleNotFoundError as err:
            place = line_of_user(err)
            if place and err.name != module_name:
                raise UnknownNameError(
                    f"{what} needs {err.name!r}, which is not installed: {place.rpartition(', in ')[0]} imports it"
                ) from None
            where = f"looked in {Path.cwd()} and the installed packages"
            similar = close_names(module_name, [file.stem for file in Path.cwd().glob("*.py")])
            raise UnknownNameError(f"cannot import {module_name!r} for {what}: {err} ({where}){similar}") from None
    if not hasattr(module, item):
        callables = [n for n in vars(module) if callable(vars(module)[n]) and not n.startswith("_")]
        raise UnknownNameError(f"module {module_name!r} has no {item!r}{near_names(item, callables)}")
    return getattr(module, item)


def _module_of(path: Path, what: str) -> ModuleType:
    """The module in a file, with the file's own folder among the places that it imports from."""
    if not path.is_file():
        raise UnknownNameError(f"no such file for {what}: {path}{similar_paths(path)}")
    name = path.stem
    loaded = sys.modules.get(name)
    if loaded is not None and Path(getattr(loaded, "__file__", None) or "").resolve() == path.resolve():
        return loaded
    if loaded is not None or name in sys.stdlib_module_names:  # another module has this name, and keeps it
        name = f"{name}_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UnknownNameError(f"{path} is no Python file, for {what}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # as import does, so that its classes can be pickled
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


@contextlib.contextmanager
def current_folder() -> Iterator[None]:
    """Let modules in the current folder be imported, as under `python -m`."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


@contextlib.contextmanager
def no_exit(name: str) -> Iterator[None]:
    """Say it where the user's code ends the program instead of going on, as scripts do that read their own options.

    Args:
        name: what the user wrote, ``module:name``.

    Raises:
        InvalidInputError: in place of SystemExit.
    """
    try:
        yield
    except SystemExit as err:
        raise InvalidInputError(
            f"{name} ended the program (SystemExit {err.code}) instead of returning; put what a script does by itself "
            "under if __name__ == '__main__':"
        ) from err


def load_data_set(name: str) -> Any:
    """The data set that ``module:dataset`` means; a function is called, and returns it.

    Args:
        name: what --data says.

    Raises:
        InvalidInputError, UnknownNameError: for what is not there, or a function that needs arguments.
    """
    data_set = imported(name, "a data set", "module:dataset")
    if not inspect.isfunction(data_set):
        return data_set
    needed = [p.name for p in inspect.signature(data_set).parameters.values() if p.default is p.empty and p.kind < 2]
    if needed:
        raise InvalidInputError(
            f"--data calls a function without arguments, and {name} needs {', '.join(needed)}; give them defaults, or "
            "name a data set"
        )
    with current_folder(), no_exit(name):
        return data_set()

"""Optuna's study: opening a new one or an earlier one, without log lines."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaikit.core.errors import InvalidInputError, InvalidTypeError, MissingDependencyError
from xaikit.tuning.journal import open_journal
from xaikit.tuning.optuna_private import disconnect

if TYPE_CHECKING:
    import optuna

FINGERPRINT = "xaikit"  # user attribute of a study that says what it searches
CONNECT_SECONDS = 10
ATTEMPTS = (0.1, 0.3, 1.0)  # seconds to wait before the next one
JOURNAL_SUFFIXES = (".journal", ".log")


def open_study(
    storage: Any, name: str | None, resume: bool, directions: Sequence[str], fingerprint: dict[str, Any]
) -> tuple[optuna.Study, Any]:
    """A new study, or with `resume` the one of that name; and its storage, for `disconnect`.

    Raises:
        InvalidInputError: when the storage does not answer, the name is taken, or the study there searches something
            else; the message says what differs.
        MissingDependencyError: when the storage needs a driver that is absent.
    """
    import optuna

    if resume and (storage is None or name is None):
        raise InvalidInputError("resume=True needs a storage and a study_name to go on with")
    opened: Any = None
    exists = False
    try:
        opened = open_storage(storage)
        study = optuna.create_study(
            storage=opened,
            study_name=name,
            directions=list(directions),  # type: ignore[arg-type]
            load_if_exists=resume,
        )
    except optuna.exceptions.DuplicatedStudyError:
        study, exists = optuna.load_study(study_name=name, storage=opened), True
    except (InvalidInputError, InvalidTypeError, MissingDependencyError):
        raise
    except Exception as err:
        if storage is None:
            raise
        raise InvalidInputError(
            f"the storage {without_password(storage)} does not answer ({type(err).__name__}); {_remedy(storage, err)}"
        ) from err
    try:
        _claim(study, name, fingerprint, exists=exists)
    except InvalidInputError:
        disconnect(opened)
        raise
    return study, opened


def open_storage(storage: Any) -> Any:
    """Optuna's storage for an URL or a path; None for a study in memory.

    ``sqlite:///file.db``, ``postgresql://user:password@host/database`` and whatever else SQLAlchemy reads; a journal
    file as ``journal:///file`` or as a path that ends in .journal or .log.
    """
    import optuna
    import sqlalchemy.exc

    if storage is None or isinstance(storage, optuna.storages.BaseStorage):
        return storage
    if not isinstance(storage, (str, Path)):
        raise InvalidTypeError(f"storage must be an URL, a path or an Optuna storage, got {storage!r}")
    journal = _journal_path(storage)
    if journal is not None:
        return open_journal(journal)
    url = _with_driver(str(storage))
    if "://" not in url:
        raise InvalidInputError(
            f"storage must be an URL such as 'sqlite:///study.db' or a path that ends in .journal, got {url!r}"
        )
    arguments = {"timeout": 60} if url.startswith("sqlite") else {}
    if url.startswith("postgresql"):
        arguments = {"connect_timeout": CONNECT_SECONDS}
    try:
        return _database(url, arguments)
    except sqlalchemy.exc.ArgumentError:  # also of a kind of database that SQLAlchemy does not know
        raise InvalidInputError(
            f"the storage {without_password(url)} is no URL of a database; use 'sqlite:///study.db', "
            f"'postgresql://user:password@host/database', or a path that ends in .journal"
        ) from None
    except ImportError as err:
        extra = "pip install 'xaikit[postgresql]'" if url.startswith("postgresql") else "install its driver"
        raise MissingDependencyError(f"the storage {without_password(url)} needs a driver: {extra} ({err})") from err


def _database(url: str, arguments: dict[str, Any]) -> Any:
    """Optuna's storage in a database.

    Where several processes make its tables at the same time, the database refuses all but one of them; these wait. A
    connection that failed is closed at once, since this first engine keeps none.
    """
    import optuna
    import sqlalchemy.exc

    settings: dict[str, Any] = {"connect_args": arguments} if arguments else {}
    keeps_none = settings | {"poolclass": sqlalchemy.pool.NullPool}
    for wait in ATTEMPTS:
        try:
            disconnect(optuna.storages.RDBStorage(url, engine_kwargs=keeps_none))
            break
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError):
            time.sleep(wait)
        except sqlalchemy.exc.OperationalError as err:  # SQLite's, which has it for a folder that is not there too
            if "already exists" not in str(err):
                raise
            time.sleep(wait)
    return optuna.storages.RDBStorage(url, engine_kwargs=settings or None)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """While active, Optuna logs no line for each trial, which the progress bar shows already."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def without_password(storage: Any) -> str:
    """The storage as text for messages, without its password."""
    text = str(storage) if isinstance(storage, (str, Path)) else type(storage).__name__
    text = re.sub(r"(://[^:/@]*):.*@", r"\1:***@", text)
    return re.sub(r"(?i)(password=)[^&]*", r"\1***", text)


def _journal_path(storage: str | Path) -> Path | None:
    text = str(storage)
    if text.startswith("journal://"):
        return Path(text.removeprefix("journal://"))
    return Path(text) if "://" not in text and text.endswith(JOURNAL_SUFFIXES) else None


def _with_driver(url: str) -> str:
    """The URL of a PostgreSQL database with psycopg 3 as its driver, which xaikit's extra installs."""
    return re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url)


def _remedy(storage: Any, err: Exception) -> str:
    journal = _journal_path(storage) if isinstance(storage, (str, Path)) else None
    url = str(storage)
    if journal is not None:
        return f"the folder {journal.absolute().parent} must exist and be writable"
    if url.startswith("sqlite") and any(sign in str(err) for sign in ("malformed", "not a database")):
        return "its file is damaged or no SQLite database: move it away, or name another file"
    if url.startswith("sqlite"):
        return "the file's folder must exist and be writable; sqlite:///study.db lies in the current folder"
    if url.startswith("postgres"):
        return "start the PostgreSQL server, or check host, port, user, password and database"
    return "is it running?"


def _claim(study: optuna.Study, name: str | None, fingerprint: dict[str, Any], *, exists: bool) -> None:
    """Write into a new study what it searches; refuse an existing one that searches something else."""
    before = study.user_attrs.get(FINGERPRINT)
    if before is not None:
        _same_search(before, name, fingerprint)
    if exists:
        raise InvalidInputError(
            f"the storage already holds a study {name!r}; pass resume=True (--resume) to go on with it, "
            f"or another study_name (--study)"
        )
    if before is None:
        study.set_user_attr(FINGERPRINT, fingerprint)


def _same_search(before: dict[str, Any], name: str | None, fingerprint: dict[str, Any]) -> None:
    """Refuse a study that searches something else; the message says what differs."""
    for key, now in fingerprint.items():
        was = before.get(key)
        if was == now:
            continue
        if isinstance(was, dict) and isinstance(now, dict):
            inner = next(n for n in (*now, *was) if was.get(n) != now.get(n))
            key, was, now = f"{key} of {inner!r}", was.get(inner, "nothing"), now.get(inner, "nothing")  # noqa: PLW2901
        raise InvalidInputError(
            f"study {name!r} was made with {key} {was}, now it is {now}; choose another study_name (--study)"
        )

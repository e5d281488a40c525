"""Optuna's study: opened, or gone on with, and without its log lines."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xaikit.core.errors import InvalidInputError

if TYPE_CHECKING:
    import optuna

ABOUT = "xaikit"  # user attribute of a study that says what it searches


def open_study(storage: Any, name: str | None, resume: bool, direction: str, about: dict[str, Any]) -> optuna.Study:
    """A new study, or with `resume` the one of that name.

    Raises:
        InvalidInputError: when the storage does not answer, the name is taken, or the study there searches something
            else; the message says what differs.
    """
    import optuna

    if resume and (storage is None or name is None):
        raise InvalidInputError("resume=True needs a storage and a study_name to go on with")
    try:
        study = optuna.create_study(storage=storage, study_name=name, direction=direction, load_if_exists=resume)  # type: ignore[arg-type]
    except optuna.exceptions.DuplicatedStudyError:
        raise InvalidInputError(
            f"the storage already holds a study {name!r}; pass resume=True to go on with it, or another study_name"
        ) from None
    except Exception as err:
        if storage is None:
            raise
        where = _without_password(storage)
        raise InvalidInputError(f"the storage {where} does not answer ({type(err).__name__}); is it running?") from err
    if study.trials and ABOUT in study.user_attrs:
        _same_search(study, name, about)
    study.set_user_attr(ABOUT, about)
    return study


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Optuna logs a line per trial; the progress bar and the result's table say it once."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


def _same_search(study: optuna.Study, name: str | None, about: dict[str, Any]) -> None:
    before = study.user_attrs[ABOUT]
    for key, value in about.items():
        if before.get(key) != value:
            raise InvalidInputError(
                f"study {name!r} was made with {key} {before.get(key)}, now it is {value}; choose another study_name"
            )


def _without_password(storage: Any) -> str:
    text = storage if isinstance(storage, str) else type(storage).__name__
    return re.sub(r"(://[^:/@]*):[^@]*@", r"\1:***@", text)

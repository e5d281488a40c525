"""Arguments that were renamed: the old name is refused with the new one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from xaikit.core.errors import InvalidTypeError

P = ParamSpec("P")
R = TypeVar("R")


def renamed_arguments(**new_names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for a function some of whose keywords had other names.

    Args:
        new_names: what to pass instead, by the old name.

    >>> @renamed_arguments(colour="color")
    ... def paint(color: str) -> str:
    ...     return color
    >>> paint(colour="red")
    Traceback (most recent call last):
    xaikit.core.errors.InvalidTypeError: paint takes no colour= any more; pass color=
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            for old, new in new_names.items():
                if old in kwargs:
                    raise InvalidTypeError(f"{function.__name__} takes no {old}= any more; pass {new}=")
            return function(*args, **kwargs)

        return checked

    return decorate

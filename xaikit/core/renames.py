"""Names that were renamed: using an old one raises an error that says the new one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from xaikit.core.errors import InvalidTypeError, near_names

P = ParamSpec("P")
T = TypeVar("T")


def renamed_arguments(**new_names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorator of a function whose keyword arguments have new names: an old one is refused with its new one.

    Args:
        new_names: the new name by the old one.

    >>> @renamed_arguments(masks="relevant_region")
    ... def mass(relevant_region): ...
    >>> mass(masks=1)
    Traceback (most recent call last):
    xaikit.core.errors.InvalidTypeError: mass() has no argument 'masks' any more; it is called 'relevant_region' now
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            for old in kwargs.keys() & new_names.keys():
                name = function.__qualname__.removesuffix(".__init__")
                raise InvalidTypeError(
                    f"{name}() has no argument {old!r} any more; it is called {new_names[old]!r} now"
                )
            return function(*args, **kwargs)

        return checked

    return decorate


def renamed_attribute(owner: str, name: str, new_names: Mapping[str, str], attributes: Any = ()) -> AttributeError:
    """The error for an attribute that `owner` does not have; for an old name it says the new one.

    Args:
        owner: a module's or a class's name.
        name: what was asked for.
        new_names: the new name by the old one.
        attributes: names that the owner has, of which near ones are suggested.
    """
    if name in new_names:
        return AttributeError(f"{owner} has no {name!r} any more; it is called {new_names[name]!r} now")
    return AttributeError(f"{owner} has no attribute {name!r}{near_names(name, attributes) if attributes else ''}")

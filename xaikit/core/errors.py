"""The exceptions that xaikit raises; each is also the built-in type that a caller would expect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_NAMES_SHOWN = 60  # known names in a message
MAX_VALUE_SHOWN = 100  # characters of a value in a message


class XaikitError(Exception):
    """Base of every error that xaikit raises on purpose."""


class InvalidInputError(XaikitError, ValueError):
    """A value of the right type that cannot be used: a wrong shape, a number out of range, NaN."""


class InvalidTypeError(XaikitError, TypeError):
    """A value of the wrong type, or a setting that does not exist."""


class NonFiniteError(InvalidInputError):
    """A result that is NaN or infinite although its input was not."""


class UnreachableError(InvalidInputError):
    """The explained score does not depend on what is explained."""


class NestedLayersError(InvalidInputError):
    """Several layers of which one feeds another: they cannot be explained together, only one by one."""


class UnknownNameError(XaikitError, LookupError):
    """A name that is not in the registry, the model or the output where it was looked up."""


class NotDifferentiableError(XaikitError, RuntimeError):
    """``create_graph=True`` on an explainer whose attribution has no exact derivative."""


class UnboundError(XaikitError, RuntimeError):
    """A call on an explainer that has no model yet."""


class UnsupportedOperationError(XaikitError, RuntimeError):
    """The model runs an operation that the method has no rule for."""


class TrainingError(XaikitError, RuntimeError):
    """Training had to stop; the message says at which step, and what to try."""


class CheckpointError(XaikitError, OSError):
    """A checkpoint that could not be written; the one before it stays."""


class TuningError(XaikitError, RuntimeError):
    """A search in which no trial gave a number; the message gives the reason of the first one."""


class MissingDependencyError(XaikitError, ImportError):
    """A library that this feature needs is absent or does not import."""


def near_names(name: str, choices: Iterable[str], *, count: int = 3) -> str:
    """The end of an error sentence: ``; did you mean 'x'?``, or the known names (the first ones, if there are many)."""
    names = sorted(set(choices))
    close = difflib.get_close_matches(name, names, n=count)
    if close:
        return f"; did you mean {' or '.join(repr(c) for c in close)}?"
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return f"; known are {', '.join(repr(n) for n in names[:MAX_NAMES_SHOWN])}{more}" if names else ""


def close_names(name: str, choices: Iterable[str]) -> str:
    """The end of an error sentence, ``; did you mean 'x'?``, where a name is close; the others are not listed."""
    return near_names(name, difflib.get_close_matches(name, sorted(set(choices)), n=3))


def shown(value: object) -> str:
    """A value for a message, in one short line: of an array its class and shape.

    Args:
        value: what the caller passed.
    """
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_VALUE_SHOWN else f"{text[:MAX_VALUE_SHOWN]}..."

"""Result: what a call returns, as a value that can be compared, shown, saved and read again."""

from __future__ import annotations

import dataclasses
import enum
import functools
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import core_schema
from torch import Tensor, nn

from xaikit.core import result_files
from xaikit.core.errors import InvalidInputError, InvalidTypeError, MissingDependencyError, XaikitError
from xaikit.core.renames import renamed_attribute
from xaikit.core.value_equality import same_value, value_hash

# A number that may be NaN, which a file holds as null.
Real = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value)]


class OpaqueField:
    """Annotates a field whose value is read by its class, such as an explainer from its spec, and not by pydantic."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:  # noqa: ARG002
        """Whether the value is of the annotated class."""
        return core_schema.is_instance_schema(source)


NAME, FORMAT = "result", "format"  # keys of a saved result that say what it is


class Stopped(enum.StrEnum):
    """Why something ended; a member equals its text, so ``stopped == "interrupted"`` is right."""

    DONE = "done"  # all that was asked for is done
    INTERRUPTED = "interrupted"  # by Ctrl-C; what was done until then is there
    EARLY_STOPPING = "early_stopping"  # no improvement on the validation data
    OUT_OF_TIME = "out_of_time"  # the time that was given is used up
    EXHAUSTED = "exhausted"  # nothing is left to try

    @classmethod
    def _missing_(cls, value: object) -> Stopped | None:
        return cls(RENAMED_STOPS[value]) if isinstance(value, str) and value in RENAMED_STOPS else None

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str) and other in RENAMED_STOPS:
            warnings.warn(
                f"'{other}' is called '{RENAMED_STOPS[other]}' now, so this comparison is never true",
                FutureWarning,
                stacklevel=2,
            )
        return str.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other  # noqa: SIM201 - text has a __ne__ of its own

    __hash__ = str.__hash__


RENAMED_STOPS = {
    "epochs": "done", "trials": "done", "early": "early_stopping", "timeout": "out_of_time", "space": "exhausted",
}  # fmt: skip  # what xaikit 0.1 said


class Result:
    """Base of what the library returns: a frozen dataclass that can be compared, saved and read again.

    A subclass is decorated with ``@dataclasses.dataclass(frozen=True, eq=False, repr=False)`` and lists its fields.
    Fields with ``compare=False`` (a model, a study) are not saved. ``FORMAT`` counts up when the fields change in a way
    that older versions of xaikit could not read.

    >>> @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    ... class Share(Result):
    ...     share: Real
    ...     seed: int = 0
    >>> Share.from_dict(Share(math.nan).to_dict()) == Share(math.nan)
    True
    """

    FORMAT: ClassVar[int] = 1
    RENAMED: ClassVar[Mapping[str, str]] = {}  # new names of fields, by their old ones
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(arbitrary_types_allowed=True)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, NaN as None; `from_dict` reads it back.

        Raises:
            InvalidInputError: where a field holds a function or whatever else JSON cannot hold.
        """
        return self._encode(result_files.inline)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The result that `to_dict` wrote.

        Args:
            state: what `to_dict` returned.

        Raises:
            InvalidInputError: for another kind of result, one of a newer xaikit, or a field that is missing or wrong.
        """
        return cls._from_state(state, cls._decode)

    def save(self, path: str | Path) -> Path:
        """Write to a file, whole or not at all; `load` reads it.

        Args:
            path: where to. A name that ends in ``.npz`` or ``.safetensors`` holds tensors as arrays; any other is JSON.

        Returns:
            The path.

        Raises:
            OSError: when the disk refuses.
            MissingDependencyError: for ``.safetensors`` where that library is absent.
        """
        return result_files.write(path, self._encode)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The result that `save` wrote.

        Args:
            path: the file.

        Raises:
            InvalidInputError: for a damaged file, another kind of result, or one that a newer xaikit wrote.
            OSError: where there is no such file.
        """
        return cls._load(path, cls._decode)

    @classmethod
    def _load(cls, path: str | Path, build: Callable[[dict[str, Any]], Self]) -> Self:
        """Read a file and hand its decoded state to `build`; every error names the file."""
        try:
            state, arrays = result_files.read(path)
            return cls._from_state(state, build, arrays)
        except (OSError, MissingDependencyError):
            raise
        except Exception as err:  # a file may hold anything, so any exception means that the file is wrong
            reason = str(err) if isinstance(err, XaikitError) else _first_line(err)
            raise InvalidInputError(f"{path} holds no {cls.__name__} that can be read: {reason}") from err

    @classmethod
    def _from_state(
        cls, state: Any, build: Callable[[dict[str, Any]], Self], arrays: Mapping[str, Tensor] | None = None
    ) -> Self:
        """Hand the decoded state to `build`, once it is known to be of this class and of the present format."""
        state = cls._upgrade(state, arrays or {})
        cls._check(state)
        try:
            return build(result_files.decode(state, arrays))
        except (KeyError, IndexError) as err:
            raise InvalidInputError(f"the content is no {cls.__name__}: {err} is missing") from err
        except (AttributeError, TypeError) as err:
            raise InvalidInputError(f"the content is no {cls.__name__}: {err}") from err

    @classmethod
    def _upgrade(cls, state: Any, arrays: Mapping[str, Tensor]) -> Any:  # noqa: ARG003
        """The state that an older xaikit wrote, as it is written now; `arrays` are the file's tensors."""
        return state

    def _state(self) -> dict[str, Any]:
        """The values to save, by name; `result_files.encode` must know their types."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.compare}  # type: ignore[arg-type]

    def _encode(self, save_tensor: result_files.SaveTensor) -> dict[str, Any]:
        plain = {n: result_files.encode(v, n, save_tensor) for n, v in self._state().items()}
        return {NAME: type(self).__name__, FORMAT: self.FORMAT, **plain}

    @classmethod
    def _decode(cls, state: Mapping[str, Any]) -> Self:
        """The result of a decoded state; the fields are checked against their types."""
        field_names = {f.name for f in dataclasses.fields(cls) if f.compare}  # type: ignore[arg-type]
        try:
            result: Self = _adapter(cls).validate_python(  # type: ignore[arg-type]
                {k: v for k, v in state.items() if k in field_names}
            )
        except ValidationError as err:
            raise InvalidInputError(_sentence(cls.__name__, err)) from None
        return result

    @classmethod
    def _check(cls, state: Any) -> None:
        """Whether a state is of this class and of a format that this version knows."""
        if not isinstance(state, Mapping):
            raise InvalidInputError(f"the content is a {type(state).__name__}, no {cls.__name__}")
        name, version = state.get(NAME, cls.__name__), state.get(FORMAT, 1)
        if name != cls.__name__:
            raise InvalidInputError(
                f"the content is a result of the kind {name}, not {cls.__name__}; {name}.load reads it"
            )
        if not isinstance(version, int) or version > cls.FORMAT:
            raise InvalidInputError(
                f"the content is a {cls.__name__} of format {version!r}, and this xaikit reads formats up to "
                f"{cls.FORMAT}; a newer xaikit wrote it: pip install --upgrade xaikit"
            )

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return same_value(self._compared(), other._compared())  # type: ignore[attr-defined]

    def __hash__(self) -> int:
        return hash((type(self).__name__, value_hash(self._compared())))

    def _compared(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in dataclasses.fields(self) if f.compare)  # type: ignore[arg-type]

    if not TYPE_CHECKING:  # a type checker would take any attribute to be there

        def __getattr__(self, name: str) -> Any:
            raise renamed_attribute(type(self).__name__, name, type(self).RENAMED)

    def __repr__(self) -> str:
        fields = [f for f in dataclasses.fields(self) if f.repr]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{f.name}={short(getattr(self, f.name))}' for f in fields)})"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Interval(Result):
    """A mean with its confidence interval.

    Attributes:
        low, high: ends of the interval; NaN for fewer than two values.
        mean: of the values; NaN for none.
        level: confidence of the interval, such as 0.95.
        n: number of values.

    >>> Interval(low=0.5, mean=0.75, high=1.0, level=0.95, n=10)
    0.75 [0.5, 1] (95 % interval, n = 10)
    """

    low: Real
    mean: Real
    high: Real
    level: float
    n: int

    @property
    def margin(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    if not TYPE_CHECKING:  # a type checker would take an interval to be iterable

        def __iter__(self) -> Any:
            raise InvalidTypeError(
                "an Interval is no tuple any more; it has .mean, .low, .high, .margin, .level and .n"
            )

    def __repr__(self) -> str:
        ends = "" if math.isnan(self.low) else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.mean:.3g}{ends} ({100 * self.level:g} % interval, n = {self.n})"


def short(value: Any) -> str:  # noqa: PLR0911 - one return for each kind of value
    """A short text for a value: tensors by their shape, long collections by their length."""
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"array{value.shape}"
    if isinstance(value, nn.Module):
        return type(value).__name__
    if isinstance(value, enum.StrEnum):
        return repr(value.value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        text = f"{{{', '.join(f'{k!r}: {short(v)}' for k, v in value.items())}}}"
        return text if len(text) <= 80 else f"{{{len(value)} entries}}"
    if isinstance(value, (list, tuple)):
        text = ", ".join(map(short, value[:20]))
        start, end = "[]" if isinstance(value, list) else "()"
        fits = len(text) <= 80 and len(value) <= 20
        return f"{start}{text}{',' if len(value) == 1 and start == '(' else ''}{end}" if fits else f"{len(value)} items"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


@functools.cache  # making one costs more than reading a small file
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


def _sentence(name: str, err: ValidationError) -> str:
    first = err.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"the content is no {name}: {where!r} is missing"
    return f"the content is no {name}: {where}: {first['msg']}, got {short(first['input'])}"


def _first_line(err: Exception) -> str:
    return f"{type(err).__name__}: {(str(err).strip().splitlines() or [''])[0][:200]}"

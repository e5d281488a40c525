"""The specs of settings: which values are allowed, and which of them a search tries.

The legal range (``ge``, ``gt``, ``le``, ``lt``) and the search range (``low``, ``high``) are two things: ``n_iter=1``
is legal although no search starts there. A spec without a search range is checked but never tuned.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, model_validator
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names, shown
from xaikit.core.spec_strings import WORDS, from_text, nested

if TYPE_CHECKING:
    from xaikit.core.registry import Registry


class Spec(BaseModel):
    """Base of the specs: `check` says which values are allowed, `tunable` whether a search may vary the setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
    kind: str = ""
    optional: bool = False  # None is legal too

    @property
    def tunable(self) -> bool:
        """Whether a search may vary this setting."""
        return False

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        fields = type(self).model_fields
        return ((n, v) for n, v in self if n != "kind" and v != fields[n].default)

    def check(self, value: Any, where: str) -> Any:
        """The value in its normal form.

        Args:
            value: what a user gave for the setting.
            where: the name of the setting, for messages.

        Raises:
            InvalidTypeError: for a value of the wrong type.
            InvalidInputError: for a value of the right type that is not allowed.
        """
        raise NotImplementedError

    def read(self, text: str) -> Any:
        """The value for a text in a spec string, not yet checked.

        Args:
            text: what stands behind ``key=``.
        """
        return from_text(text)


class Number(Spec):
    """Base of `Float` and `Int`: the legal range and the search range."""

    WORD: ClassVar[str] = "number"
    low: int | float | None = None
    high: int | float | None = None
    step: int | float | None = None
    log: bool = False
    ge: int | float | None = None
    gt: int | float | None = None
    le: int | float | None = None
    lt: int | float | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Number:
        if (self.low is None) != (self.high is None):
            raise ValueError(f"a search range needs both ends, got low={self.low}, high={self.high}")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low must lie below high, got low={self.low}, high={self.high}")
        if self.log and (self.low is None or self.low <= 0):
            raise ValueError(f"a log scale needs low > 0, got low={self.low}")
        return self

    @property
    def tunable(self) -> bool:
        """True when a search range is declared."""
        return self.low is not None

    def _legal(self, value: float) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def _range(self) -> str:
        bounds = [(">=", self.ge), (">", self.gt), ("<=", self.le), ("<", self.lt)]
        return " and ".join(f"{sign} {bound:g}" for sign, bound in bounds if bound is not None)

    def check(self, value: Any, where: str) -> Any:
        """A number of the right kind inside the legal range; see `Spec.check`."""
        if value is None and self.optional:
            return None
        number = self._convert(value)
        if number is None:
            raise InvalidTypeError(f"{where} must be {self.WORD}, got {shown(value)} of type {type(value).__name__}")
        if not math.isfinite(number):
            raise InvalidInputError(f"{where} must be finite, got {shown(value)}")
        if not self._legal(number):
            raise InvalidInputError(f"{where} must be {self._range()}, got {shown(value)}")
        return number

    def _convert(self, value: Any) -> Any:
        raise NotImplementedError


class Float(Number):
    """A real number.

    Args:
        low: start of the range that a search looks at; without a range no search varies the setting.
        high: end of that range.
        step: distance of the points of that range.
        log: whether a search looks at the range on a log scale.
        ge: the value must be at least this.
        gt: the value must be larger than this.
        le: the value must be at most this.
        lt: the value must be smaller than this.
        optional: None is allowed, too.
    """

    WORD: ClassVar[str] = "a number"
    kind: Literal["float"] = "float"

    def _convert(self, value: Any) -> float | None:
        if isinstance(value, bool) or not (isinstance(value, (int, float)) or type(value).__module__ == "numpy"):
            return None
        try:
            return float(value)
        except (TypeError, ValueError):
            return None


class Int(Number):
    """A whole number; the arguments are those of `Float`."""

    WORD: ClassVar[str] = "a whole number"
    kind: Literal["int"] = "int"

    def _convert(self, value: Any) -> int | None:
        if isinstance(value, (bool, str)) or not hasattr(value, "__index__"):
            return None
        try:
            return value.__index__()
        except TypeError:  # an array or a tensor that is no single whole number
            return None


class Categorical(Spec):
    """One of a few choices.

    Args:
        choices: text, numbers, booleans or None.
        search: whether a search may vary the setting.
    """

    kind: Literal["categorical"] = "categorical"
    choices: tuple[str | int | float | bool | None, ...]
    search: bool = True

    def __init__(self, *choices: str | float | bool | None, **fields: Any) -> None:
        super().__init__(**{**({"choices": choices} if choices else {}), **fields})

    @property
    def tunable(self) -> bool:
        """True unless declared with ``search=False``."""
        return self.search and len(self.choices) > 1

    def check(self, value: Any, where: str) -> Any:
        """The choice that equals the value and has its type.

        Args:
            value: what a user gave for the setting.
            where: the name of the setting, for messages.

        Raises:
            InvalidInputError: for anything but one of the choices.
        """
        for choice in self.choices:
            if type(choice) is type(value) and choice == value:
                return choice
        names = [c for c in self.choices if isinstance(c, str)]
        near = near_names(value, names) if isinstance(value, str) else ""
        near = near if "did you mean" in near else ""  # the sentence lists the choices already
        choices = ", ".join(map(repr, self.choices))
        raise InvalidInputError(f"{where} must be one of {choices}, got {shown(value)}{near}")


class Choice(Spec):
    """An item of a registry. Users give a name, a spec string, a class or an object; the setting holds the object.

    Args:
        registry: where names are looked up.
        search: whether a search may choose among the names.
        optional: None is allowed, too.
        required_attribute: a search chooses only among classes whose attribute of this name is true.
    """

    kind: Literal["choice"] = "choice"
    registry: Any
    search: bool = False
    required_attribute: str = ""

    def __init__(self, registry: Registry, **fields: Any) -> None:
        super().__init__(**{"registry": registry, **fields})

    @property
    def names(self) -> Iterator[str]:
        """Names that a search may choose among: those whose class has `required_attribute`, if one is named."""
        return (
            name
            for name in self.registry
            if not self.required_attribute or getattr(self.registry.get(name), self.required_attribute)
        )

    @property
    def tunable(self) -> bool:
        """True when declared with ``search=True``."""
        return self.search

    def read(self, text: str) -> Any:
        """As for any setting; a spec with several settings of its own stands in parentheses.

        Args:
            text: what stands behind ``key=``.
        """
        return from_text(nested(text))

    def check(self, value: Any, where: str) -> Any:
        """An object of the registry's kind.

        Args:
            value: what `Registry.create` accepts, or None where the setting is optional.
            where: the name of the setting, for messages.

        Raises:
            InvalidTypeError, InvalidInputError: where the registry refuses the value.
        """
        if value is None and self.optional:
            return None
        try:
            return self.registry.create(value)
        except (InvalidTypeError, InvalidInputError) as err:
            raise type(err)(f"{where}: {err}") from None


class Layer(Spec):
    """A layer by its name, or the module itself; or, with `several`, a sequence of them."""

    kind: Literal["layer"] = "layer"
    several: bool = False

    def check(self, value: Any, where: str) -> Any:
        """The layer, or a tuple of layers.

        Args:
            value: a name, a module, or with `several` a sequence of them; None for no layer.
            where: the name of the setting, for messages.

        Raises:
            InvalidTypeError: for anything else.
        """
        sequence = self.several and isinstance(value, (tuple, list))
        items = value if sequence else (value,)
        if value is not None and (not items or not all(isinstance(item, (str, nn.Module)) for item in items)):
            kinds = "a layer's name, a module, or a sequence of them" if self.several else "a layer's name or a module"
            raise InvalidTypeError(f"{where} must be {kinds}, got {shown(value)}")
        return tuple(value) if sequence else value

    def read(self, text: str) -> Any:
        """A name, also where it looks like a number: the layers of a Sequential are called 0, 1, 2.

        Args:
            text: what stands behind ``layer=``; a list in brackets for several layers.
        """
        if text.startswith("[") and text.endswith("]"):
            return [part.strip(" '\"") for part in text[1:-1].split(",")]
        return None if WORDS.get(text, text) is None else text.strip("'\"")

"""Configured: the base of explainers, metrics, mitigators and transforms, which are frozen sets of checked settings.

A subclass lists its settings as annotated class attributes, one line each (type, spec, description, default)::

    class Blur(Configured):
        sigma: Annotated[float, Float(low=1, high=10, gt=0), "std in pixels"] = 3.0

Every subclass becomes a frozen dataclass. `set_kwargs` returns a new object, so nothing that was computed from old
settings remains.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names, shown
from xaikit.core.params import Spec
from xaikit.core.setting_json import to_json, tuples_for_lists
from xaikit.core.spec_strings import from_text
from xaikit.core.value_equality import same_value, value_hash

REQUIRED: Any = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Setting:
    """One setting of a class: its type, its allowed values, its description and its default."""

    hint: Any
    spec: Spec | None
    check: Callable[[Any, str], Any]
    doc: str
    default: Any

    def is_default(self, value: Any) -> bool:
        """Whether a checked value equals the checked default; `Zeros()` equals the default "zeros", which names it.

        Args:
            value: the checked value of this setting.
        """
        if self.default is REQUIRED or same_value(value, self.default):
            return self.default is not REQUIRED
        return not isinstance(value, Tensor) and same_value(value, self.check(self.default, "default"))


def positional(*, default: Any, kw_only: bool = False) -> Any:  # noqa: ARG001
    """Declare a field that may be passed by position.

    Args:
        default: the value of the field where none is passed.
        kw_only: only type checkers read it (PEP 681); its default here is the field's default for them.
    """
    return default


@typing.dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(positional,))
class Configured:
    """A frozen set of named settings, checked when it is made."""

    NAME: ClassVar[str] = ""
    REGISTRY: ClassVar[Any] = None
    SETTINGS: ClassVar[Mapping[str, Setting]] = MappingProxyType({})
    RENAMED_SETTINGS: ClassVar[Mapping[str, str]] = {}  # the new names by the old ones
    RENAMED_MEMBERS: ClassVar[Mapping[str, str]] = {}  # what a subclass may not define any more, and its new name
    TUNABLES: ClassVar[Mapping[str, Spec]] = MappingProxyType({})

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True, eq=False, repr=False, init=False)(cls)
        for old, new in cls.RENAMED_MEMBERS.items():
            if old in vars(cls):
                raise InvalidTypeError(f"{cls.__name__} defines {old}, which is called {new} now")
        hints = _hints_of(cls)
        settings: dict[str, Setting] = {}
        for base in reversed(cls.__mro__[1:]):
            settings |= base.__dict__.get("SETTINGS", {})
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if field.name in hints:
                settings[field.name] = _setting(hints[field.name], field.default)
            elif field.name in cls.__dict__ and field.name in settings:
                # `n_iter = 50` in a subclass, without a new annotation: only the default changes.
                settings[field.name] = dataclasses.replace(settings[field.name], default=cls.__dict__[field.name])
        settings.pop("model", None)
        cls.SETTINGS = MappingProxyType(settings)
        cls.TUNABLES = MappingProxyType({n: s.spec for n, s in settings.items() if s.spec and s.spec.tunable})
        cls.__signature__ = _signature(cls)  # type: ignore[attr-defined]

    if not TYPE_CHECKING:  # type checkers read the constructor of each subclass off its settings (PEP 681)

        def __init__(self, *unnamed: Any, **settings: Any) -> None:
            self._refuse_unnamed(unnamed, "an explainer alone takes a model here, the others take it where they run")
            self._set(settings)

    def _refuse_unnamed(self, unnamed: tuple[Any, ...], remedy: str) -> None:
        """Refuse settings without their names."""
        if unnamed:
            name = type(self).__name__
            raise InvalidTypeError(
                f"{name} takes its settings by name, got {shown(unnamed[0])} without a name; write "
                f"{name}(setting=value) ({remedy})"
            )

    def _set(self, settings: Mapping[str, Any]) -> None:
        """Check and store every setting."""
        owner = type(self).__name__
        for name in settings:
            if name not in self.SETTINGS:
                if new_name := self.RENAMED_SETTINGS.get(name):
                    raise InvalidTypeError(f"the setting {name!r} of {owner} is called {new_name!r} now")
                raise InvalidTypeError(f"{owner} has no setting {name!r}{near_names(name, self.SETTINGS)}")
        for name, setting in self.SETTINGS.items():
            value = settings.get(name, setting.default)
            if value is REQUIRED:
                raise InvalidTypeError(f"{owner} needs the setting {name!r} ({setting.doc})")
            object.__setattr__(self, name, setting.check(value, f"{owner}.{name}"))
        self._check_settings()

    def _check_settings(self) -> None:
        """Refuse combinations of settings that are legal alone and not together; a subclass may override it."""

    @classmethod
    def read(cls, name: str, text: str) -> Any:
        """The value of the setting `name` for a text in a spec string.

        Args:
            name: of the setting.
            text: what stands behind ``name=``.
        """
        spec = cls.SETTINGS[name].spec if name in cls.SETTINGS else None
        return from_text(text) if spec is None else spec.read(text)

    def settings(self) -> dict[str, Any]:
        """The current value of every setting."""
        return {name: getattr(self, name) for name in self.SETTINGS}

    def set_kwargs(self, **changes: Any) -> Self:
        """A new object with some settings changed; this one stays as it is.

        Args:
            changes: settings by name.

        Raises:
            InvalidTypeError: for an unknown setting (the nearest name is given) or a wrong type.
            InvalidInputError: for a value outside the legal range.
        """
        return type(self)(**{**self.settings(), **changes})

    def copy(self) -> Self:
        """A new object with the same settings."""
        return self.set_kwargs()

    def get_tunables(self) -> dict[str, Spec]:
        """The settings that a search may vary, with the range in which it looks."""
        return dict(self.TUNABLES)

    def spec(self) -> dict[str, Any]:
        """Name and settings as plain JSON values; `Registry.create` makes an equal object of them.

        Raises:
            InvalidInputError: when a setting is a function or a module, which no JSON can hold, or the class has no
                registered name.
        """
        if not type(self).__dict__.get("NAME"):
            raise InvalidInputError(
                f"{type(self).__name__} has no registered name; decorate it with @<registry>.register"
            )
        return {
            "name": self.NAME,
            "settings": {n: to_json(v, f"{self.NAME}.{n}") for n, v in self.serialised_settings().items()},
        }

    def serialised_settings(self) -> dict[str, Any]:
        """Settings as they go into a spec."""
        return self.settings()

    def __repr__(self) -> str:
        settings = {
            n: v for n, v in self.settings().items() if n in self.TUNABLES or not self.SETTINGS[n].is_default(v)
        }
        return f"{type(self).__name__}({', '.join(f'{n}={_short(v)}' for n, v in settings.items())})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        other_settings = other.settings()
        return all(same_value(v, other_settings[n]) for n, v in self.settings().items())

    def __hash__(self) -> int:
        return hash((type(self), value_hash(self.settings())))


def _hints_of(cls: type) -> dict[str, Any]:
    """The annotations written in this class body; strings are evaluated where they were written."""
    hints = inspect.get_annotations(cls)
    if not any(isinstance(hint, str) for hint in hints.values()):
        return hints
    frame = inspect.currentframe()
    while frame is not None and frame.f_globals.get("__name__") != cls.__module__:
        frame = frame.f_back
    space = {**vars(sys.modules[cls.__module__]), **({**frame.f_globals, **frame.f_locals} if frame else {})}
    fields = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return {n: eval(h, space) if isinstance(h, str) else h for n, h in hints.items() if n in fields}


def _setting(hint: Any, default: Any) -> Setting:
    metadata = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    spec = next((m for m in metadata if isinstance(m, Spec)), None)
    check = next((m for m in metadata if callable(m) and not isinstance(m, Spec)), None)
    doc = next((m for m in metadata if isinstance(m, str)), "")
    plain = typing.get_args(hint)[0] if metadata else hint
    return Setting(plain, spec, spec.check if spec else (check or _by_hint(plain)), doc, default)


def _by_hint(hint: Any) -> Callable[[Any, str], Any]:
    """Check a setting that has no spec by its type hint alone."""

    @functools.cache  # making one costs more than a small net's forward pass
    def adapter() -> TypeAdapter[Any]:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))

    def check(value: Any, where: str) -> Any:
        if hint is Any:
            return tuples_for_lists(value)
        for candidate in (value, tuples_for_lists(value)):  # JSON has no tuples
            with contextlib.suppress(ValidationError):
                return adapter().validate_python(candidate, strict=True)
        type_name = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise InvalidTypeError(f"{where} must be {type_name}, got {value!r} of type {type(value).__name__}")

    return check


def _signature(cls: type[Configured]) -> inspect.Signature:
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(
            n, kind, default=inspect.Parameter.empty if s.default is REQUIRED else s.default, annotation=s.hint
        )
        for n, s in cls.SETTINGS.items()
    ]
    if any(f.name == "model" for f in dataclasses.fields(cls)):  # type: ignore[arg-type]
        model = inspect.Parameter(
            "model", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=nn.Module | None
        )
        parameters.insert(0, model)
    return inspect.Signature(parameters)


def _short(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor{tuple(value.shape)}"
    if isinstance(value, (tuple, list)) and any(isinstance(item, Tensor) for item in value):
        return f"({', '.join(map(_short, value))})"
    return type(value).__name__ if isinstance(value, nn.Module) else repr(value)

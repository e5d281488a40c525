"""Registry: the explainers, metrics, mitigators and transforms by name, those of xaikit and those of plugins.

A plugin is a package with an entry point in the group ``xaikit.explainers`` (or ``.metrics``, ``.mitigators``) that
names a module or a class; importing it runs its ``@EXPLAINERS.register("name")`` decorators.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from xaikit import upward
from xaikit.core.configured import Configured
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names, shown
from xaikit.core.setting_json import from_json
from xaikit.core.spec_strings import split_spec

T = TypeVar("T", bound=Configured)


class Registry(Generic[T]):
    """Classes of one kind by name.

    Args:
        kind: singular noun for messages; the plural names the entry-point group.
        home: name in `xaikit.upward` of the package whose import registers our own items. It is imported at the first
            look-up. None for a registry that only holds what is registered by hand or by plugins.
    """

    def __init__(self, kind: str, home: str | None = None) -> None:
        self.kind = kind
        self.group = f"xaikit.{kind.replace(' ', '_')}s"
        self._home = home
        self._coerce: Callable[[Any], T | None] | None = None
        self._items: dict[str, type[T]] = {}
        self._loaded = False

    def register(self, name: str, *, override: bool = False) -> Callable[[type[T]], type[T]]:
        """Class decorator that gives a class its name.

        Args:
            name: lower case, with underscores and dots.
            override: whether another class of that name may be replaced.

        Raises:
            InvalidInputError: when the name is malformed or already taken (``override=True`` replaces it).
        """
        if not re.fullmatch(r"[a-z][a-z0-9_.]*", name):
            raise InvalidInputError(f"a registered name is lower case with underscores and dots, got {name!r}")

        def add(cls: type[T]) -> type[T]:
            registered = self._items.get(name)
            if registered is not None and not override and registered.__qualname__ != cls.__qualname__:
                raise InvalidInputError(
                    f"{self.kind} {name!r} is already {registered.__qualname__}; pass override=True to replace it"
                )
            cls.NAME, cls.REGISTRY = name, self
            self._items[name] = cls
            return cls

        return add

    def coerce(self, make: Callable[[Any], T | None]) -> Callable[[Any], T | None]:
        """Decorator for the function with which `create` reads other values, such as a number for a baseline.

        Args:
            make: from a value to an object, or to None for a value that means nothing here.
        """
        self._coerce = make
        return make

    def get(self, name: str) -> type[T]:
        """The class of that name.

        Args:
            name: a registered name.

        Raises:
            UnknownNameError: naming the nearest known names.
        """
        self._load()
        if name not in self._items:
            raise UnknownNameError(f"unknown {self.kind} {name!r}{near_names(name, self._items)}")
        return self._items[name]

    def create(self, value: Any, **overrides: Any) -> T:
        """An object from a name, a spec string ``"name:key=value,key=value"``, a spec dict, a class or an object.

        Args:
            value: what describes the object.
            overrides: settings that replace those of the description.

        Raises:
            UnknownNameError: for a name that is not registered.
            InvalidTypeError: for anything else.
        """
        self._load()
        if isinstance(value, str):
            name, texts = split_spec(value)
            cls = self.get(name)
            return cls(**{**{key: cls.read(key, text) for key, text in texts.items()}, **overrides})
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            settings = {k: from_json(v) for k, v in _settings_of(value).items()}
            return self.get(value["name"])(**{**settings, **overrides})
        if isinstance(value, type) and issubclass(value, Configured) and self._belongs(value):
            return value(**overrides)  # type: ignore[return-value]
        if isinstance(value, Configured) and self._belongs(type(value)):
            return value.set_kwargs(**overrides) if overrides else value  # type: ignore[return-value]
        coerced = self._coerce(value) if self._coerce else None
        if coerced is None:
            raise InvalidTypeError(
                f"expected {self.kind} as a name, a spec string, a class or an object, "
                f"got {shown(value)} of type {type(value).__name__}"
            )
        return coerced

    def _belongs(self, cls: type[Configured]) -> bool:
        """Whether a class is of this registry's kind: registered here, or derived from one of its bases."""
        return any(c.REGISTRY is self for c in cls.__mro__ if isinstance(c, type) and issubclass(c, Configured))

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._items))

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._items

    def __len__(self) -> int:
        self._load()
        return len(self._items)

    def __repr__(self) -> str:
        return f"Registry({self.kind}: {', '.join(self)})"

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        if self._home is not None:
            upward.load(self._home)
        for entry in entry_points(group=self.group):
            try:
                entry.load()
            except (Exception, SystemExit) as err:
                # A plugin that cannot be imported must not make xaikit unusable.
                warnings.warn(f"{self.kind} plugin {entry.name!r} ({entry.value}) did not load: {err!r}", stacklevel=3)


def _settings_of(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of a spec dict: under "settings", or beside its name, as one writes them in a job file.

    Raises:
        InvalidTypeError: for settings in both places, or of another form.
    """
    beside = {key: value for key, value in spec.items() if key not in ("name", "settings")}
    if "settings" not in spec:
        return beside
    settings = {} if spec["settings"] is None else spec["settings"]
    if beside or not isinstance(settings, Mapping):
        raise InvalidTypeError(
            f'a spec dict is {{"name": ..., "settings": {{...}}}}, got {spec!r} with '
            + (
                f"{', '.join(map(repr, beside))} beside them"
                if beside
                else f"settings of type {type(settings).__name__}"
            )
        )
    return settings

"""Making a search space of an object's settings and the user's selection."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from xaikit.core import Categorical, Choice, Configured, Float, Int, Spec
from xaikit.core.configured import Setting
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.tuning.dimension import Dimension, Option
from xaikit.tuning.space import SearchedObject, Space

SpaceArgument = Mapping[str, Any] | Sequence[str] | str | None
ALL = "all"


class SpaceSelection:
    """The settings that the user wants to vary.

    None: all tunable settings. "all": these, and all choices among objects, such as baselines. Else some settings by
    dotted name, perhaps with other ranges. A name stands for the setting and all settings below it, unless a longer
    name selects some of these.
    """

    def __init__(self, space: SpaceArgument) -> None:
        self.everything, self.choices_too = space is None or space == ALL, space == ALL
        chosen = () if self.everything else space
        if isinstance(chosen, str) or not isinstance(chosen, (Mapping, Sequence)):
            raise InvalidTypeError(f"space must hold names of settings, or specs by name, or be 'all', got {space!r}")
        self.ranges: dict[str, Any] = dict(chosen) if isinstance(chosen, Mapping) else dict.fromkeys(chosen)
        self.tunable: set[str] = set()

    def includes(self, name: str) -> bool:
        """Whether all settings below that name vary."""
        self.tunable.add(name)
        return self.everything or name in self.ranges

    def deeper(self, name: str) -> bool:
        """Whether something below that setting is named."""
        return any(chosen.startswith(f"{name}.") for chosen in self.ranges)


def make_space(parts: Sequence[SearchedObject], selection: SpaceSelection) -> Space:
    """The space of some parts, which were built with the same selection.

    Raises:
        UnknownNameError: for a name in the selection that no part has; near names are given.
        InvalidInputError: when nothing is left to vary.
    """
    owner = parts[0].value
    for name in selection.ranges:
        if name not in selection.tunable:
            raise UnknownNameError(
                f"{type(owner).__name__} cannot tune {name!r}{near_names(str(name), selection.tunable)}"
            )
    space = Space(tuple(parts))
    if space.describe():
        return space
    if selection.everything:
        raise InvalidInputError(
            f"{type(owner).__name__} has no setting to tune; pass space={{setting: Float(low=, high=)}}, "
            f"its settings are {', '.join(owner.settings())}"
        )
    raise InvalidInputError(
        f"the space is empty: it must name a setting with more than one value, such as one of "
        f"{', '.join(sorted(selection.tunable) or owner.settings())}; leave space out to vary all that is tunable"
    )


def part_of_one(value: Configured, selection: SpaceSelection, name: str = "") -> SearchedObject:
    """An object whose settings vary; `name` stands before theirs."""
    inherit = selection.includes(name) if name else selection.everything
    prefix = f"{name}." if name else ""
    return SearchedObject(value, _dimensions(value, selection, prefix, prefix, inherit))


def part_of_several(values: Sequence[Configured], selection: SpaceSelection, name: str) -> SearchedObject:
    """One of several objects, chosen under `name`, with its settings below that name.

    Raises:
        InvalidInputError: when two of them are the same, or differ in nothing but what the search varies.
    """
    options = _options(values, selection, name, name, selection.includes(name))
    labels = [label for label, _ in options]
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidInputError(f"{label!r} stands twice among what to choose from")
    dim = Dimension(name, name, Categorical(*labels), labels[0], dict(options))
    return SearchedObject(values[0], (dim,), chosen=True)


def _dimensions(
    value: Configured, selection: SpaceSelection, prefix: str, key: str, inherit: bool
) -> tuple[Dimension, ...]:
    """The dimensions of one object; `inherit`: all its tunables vary, named or not."""
    dims = []
    tunables = value.get_tunables()
    for setting, now in value.settings().items():
        name = prefix + setting
        spec, requested = value.SETTINGS[setting].spec, selection.ranges.get(name)
        if setting in tunables or isinstance(spec, Choice) or requested is not None:
            selection.tunable.add(name)
        varies = name in selection.ranges and name in selection.tunable
        searched = setting in tunables or (selection.choices_too and isinstance(spec, Choice))
        if varies or (inherit and searched):
            dimension = Dimension(name, key + setting, Spec(), now)
            definition = value.SETTINGS[setting]
            dims.append(
                _choice(dimension, spec, requested, selection)
                if _is_choice(spec, requested)
                else _plain(dimension, definition, requested)
            )
        elif isinstance(now, Configured) and selection.deeper(name):
            # The object itself stays; only something below it varies.
            ((label, option),) = _options([now], selection, name, key + setting, inherit=False)
            dims.append(Dimension(name, key + setting, Categorical(label), label, {label: option}))
    return tuple(dims)


def _is_choice(spec: Spec | None, requested: Any) -> bool:
    return isinstance(requested, Choice) or (isinstance(spec, Choice) and not isinstance(requested, (Float, Int)))


def _plain(dimension: Dimension, setting: Setting, requested: Any) -> Dimension:
    """The dimension of a number, a text or a boolean. The user's values must be legal, or every trial would fail."""
    where = f"the space of {dimension.name!r}"
    requested = Categorical(*_some(requested, where)) if isinstance(requested, (list, tuple)) else requested
    searched = requested or setting.spec
    if isinstance(requested, Categorical):
        searched = Categorical(*(setting.check(choice, where) for choice in requested.choices))
    elif not isinstance(searched, Categorical) and not (isinstance(searched, (Float, Int)) and searched.tunable):
        raise InvalidTypeError(f"{where} must be a spec with a search range, got {searched!r}")
    elif isinstance(requested, (Float, Int)):
        for end in (requested.low, requested.high):
            setting.check(end, where)
    return dataclasses.replace(dimension, spec=searched)


def _choice(dimension: Dimension, spec: Spec | None, requested: Any, selection: SpaceSelection) -> Dimension:
    """The dimension of a choice among objects: all that can be made from a name alone, or those that the user lists."""
    choice: Any = requested if isinstance(requested, Choice) else spec
    listed = list(requested.choices) if isinstance(requested, Categorical) else requested
    if listed is not None and not isinstance(listed, (list, tuple, Choice)):
        raise InvalidTypeError(f"the space of {dimension.name!r} must be a list to choose from, got {listed!r}")
    all_of_them = listed is None or isinstance(listed, Choice)
    items = [n for n in choice.names if _needs_nothing(choice.registry.get(n))] if all_of_them else listed
    values = [choice.registry.create(item) for item in _some(items, f"the space of {dimension.name!r}")]
    now = dimension.start
    if now is None:
        options = _options(values, selection, dimension.name, dimension.key, inherit=True)
        return dataclasses.replace(dimension, spec=Categorical(*dict(options)), options=dict(options))
    # If the present object and a listed one differ only in searched settings, the present one replaces it.
    (start, _), *others = options = _options([now, *values], selection, dimension.name, dimension.key, inherit=True)
    labels = [label for label, _ in others]
    searched = [start, *labels] if all_of_them and start not in labels else labels
    return dataclasses.replace(
        dimension, spec=Categorical(*dict.fromkeys(searched)), start=start, options=dict(reversed(options))
    )


def _some(items: Any, where: str) -> Sequence[Any]:
    if not items:
        raise InvalidInputError(f"{where} is empty: there is nothing to choose from")
    return tuple(items)


def _options(
    values: Sequence[Configured], selection: SpaceSelection, name: str, key: str, inherit: bool
) -> list[tuple[str, Option]]:
    """The objects under their labels, with what varies below each."""
    options = []
    for value in values:
        below = _dimensions(value, selection, f"{name}.", "", inherit)
        label = _label(value, {dim.setting for dim in below})
        options.append((label, Option(value, tuple(_under(dim, f"{key}={label}.") for dim in below))))
    return options


def _under(dim: Dimension, prefix: str) -> Dimension:
    """The dimension and all below it, `prefix` before Optuna's names."""
    options = {
        label: Option(option.value, tuple(_under(d, prefix) for d in option.below))
        for label, option in dim.options.items()
    }
    return dataclasses.replace(dim, key=prefix + dim.key, options=options)


def _label(value: Configured, searched: set[str]) -> str:
    """An object as a spec string: its name, and the settings that are neither at their default nor searched."""
    settings = value.SETTINGS.items()  # the object's own: an explainer of captum's has more of them than its class
    fixed = {n: v for n, s in settings if n not in searched and not s.is_default(v := getattr(value, n))}
    name = value.NAME or type(value).__name__
    return name + (f":{','.join(f'{n}={_words(v)}' for n, v in fixed.items())}" if fixed else "")


def _words(value: Any) -> str:
    """A setting in a label; tensors by shape and content, so that two of them differ."""
    if isinstance(value, Tensor):
        content = zlib.crc32(value.detach().cpu().double().numpy().tobytes())
        return f"tensor{tuple(value.shape)}#{content:08x}"
    return repr(value)


def _needs_nothing(cls: type[Configured]) -> bool:
    """Whether a class can be made from its name alone, without a required setting."""
    return all(setting.default is not dataclasses.MISSING for setting in cls.SETTINGS.values())

"""From an object's settings and the user's wishes to a search space."""

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
from xaikit.tuning.space import Part, Space

SpaceArgument = Mapping[str, Any] | Sequence[str] | str | None
ALL = "all"


class SpaceSelection:
    """What shall vary.

    Everything tunable (None); that and every choice among objects, such as baselines ("all"); or some settings by
    dotted name, perhaps with ranges of their own. A name stands for the setting and all below it; a more precise name
    beside it narrows what is below.
    """

    def __init__(self, space: SpaceArgument) -> None:
        self.everything, self.choices_too = space is None or space == ALL, space == ALL
        given = () if self.everything else space
        if isinstance(given, str) or not isinstance(given, (Mapping, Sequence)):
            raise InvalidTypeError(f"space must hold names of settings, or specs by name, or be 'all', got {space!r}")
        self.given: dict[str, Any] = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given)
        self.known: set[str] = set()

    def whole(self, name: str) -> bool:
        """Whether all below that name shall vary."""
        self.known.add(name)
        return self.everything or name in self.given

    def deeper(self, name: str) -> bool:
        """Whether something below that setting is named."""
        return any(given.startswith(f"{name}.") for given in self.given)


def make_space(parts: Sequence[Part], wanted: SpaceSelection) -> Space:
    """The space of some parts, built with the same wishes.

    Raises:
        UnknownNameError: for a wish that no part knows; near names are given.
        InvalidInputError: when nothing is left to vary.
    """
    owner = parts[0].value
    for name in wanted.given:
        if name not in wanted.known:
            raise UnknownNameError(f"{type(owner).__name__} cannot tune {name!r}{near_names(str(name), wanted.known)}")
    space = Space(tuple(parts))
    if space.describe():
        return space
    if wanted.everything:
        raise InvalidInputError(
            f"{type(owner).__name__} has no setting to tune; pass space={{setting: Float(low=, high=)}}, "
            f"its settings are {', '.join(owner.settings())}"
        )
    raise InvalidInputError(
        f"the space is empty: it must name a setting with more than one value, such as one of "
        f"{', '.join(sorted(wanted.known) or owner.settings())}; leave space out to vary all that is tunable"
    )


def part_of_one(value: Configured, wanted: SpaceSelection, name: str = "") -> Part:
    """An object whose settings vary; `name` stands before theirs."""
    inherit = wanted.whole(name) if name else wanted.everything
    prefix = f"{name}." if name else ""
    return Part(value, _dimensions(value, wanted, prefix, prefix, inherit))


def part_of_several(values: Sequence[Configured], wanted: SpaceSelection, name: str) -> Part:
    """One of several objects, chosen under `name`, with its settings below that name.

    Raises:
        InvalidInputError: when two of them are the same, or differ in nothing but what the search varies.
    """
    options = _options(values, wanted, name, name, wanted.whole(name))
    labels = [label for label, _ in options]
    for label in labels:
        if labels.count(label) > 1:
            raise InvalidInputError(f"{label!r} stands twice among what to choose from")
    dim = Dimension(name, name, Categorical(*labels), labels[0], dict(options))
    return Part(values[0], (dim,), chosen=True)


def _dimensions(
    value: Configured, wanted: SpaceSelection, prefix: str, key: str, inherit: bool
) -> tuple[Dimension, ...]:
    """The dimensions of one object; `inherit`: all its tunables vary, named or not."""
    dims = []
    tunables = value.get_tunables()
    for setting, now in value.settings().items():
        name = prefix + setting
        spec, wish = value.SETTINGS[setting].spec, wanted.given.get(name)
        if setting in tunables or isinstance(spec, Choice) or wish is not None:
            wanted.known.add(name)
        named = name in wanted.given and name in wanted.known
        searched = setting in tunables or (wanted.choices_too and isinstance(spec, Choice))
        if named or (inherit and searched):
            own = Dimension(name, key + setting, Spec(), now)
            rules = value.SETTINGS[setting]
            dims.append(_choice(own, spec, wish, wanted) if _is_choice(spec, wish) else _plain(own, rules, wish))
        elif isinstance(now, Configured) and wanted.deeper(name):
            # The object itself stays; only something below it varies.
            ((label, option),) = _options([now], wanted, name, key + setting, inherit=False)
            dims.append(Dimension(name, key + setting, Categorical(label), label, {label: option}))
    return tuple(dims)


def _is_choice(spec: Spec | None, wish: Any) -> bool:
    return isinstance(wish, Choice) or (isinstance(spec, Choice) and not isinstance(wish, (Float, Int)))


def _plain(own: Dimension, setting: Setting, wish: Any) -> Dimension:
    """A number, a word or a truth value; what the wish holds must be legal, or every trial there would fail."""
    where = f"the space of {own.name!r}"
    wish = Categorical(*_some(wish, where)) if isinstance(wish, (list, tuple)) else wish
    searched = wish or setting.spec
    if isinstance(wish, Categorical):
        searched = Categorical(*(setting.check(choice, where) for choice in wish.choices))
    elif not isinstance(searched, Categorical) and not (isinstance(searched, (Float, Int)) and searched.tunable):
        raise InvalidTypeError(f"{where} must be a spec with a search range, got {searched!r}")
    elif isinstance(wish, (Float, Int)):
        for end in (wish.low, wish.high):
            setting.check(end, where)
    return dataclasses.replace(own, spec=searched)


def _choice(own: Dimension, spec: Spec | None, wish: Any, wanted: SpaceSelection) -> Dimension:
    """An object of a registry: all that can be made from a name alone, or those of the wish."""
    choice: Any = wish if isinstance(wish, Choice) else spec
    listed = list(wish.choices) if isinstance(wish, Categorical) else wish
    if listed is not None and not isinstance(listed, (list, tuple, Choice)):
        raise InvalidTypeError(f"the space of {own.name!r} must be a list to choose from, got {listed!r}")
    all_of_them = listed is None or isinstance(listed, Choice)
    items = [n for n in choice.names if _needs_nothing(choice.registry.get(n))] if all_of_them else listed
    values = [choice.registry.create(item) for item in _some(items, f"the space of {own.name!r}")]
    now = own.start
    if now is None:
        options = _options(values, wanted, own.name, own.key, inherit=True)
        return dataclasses.replace(own, spec=Categorical(*dict(options)), options=dict(options))
    # The present object stands for its kind where the two differ in nothing but what is searched.
    (start, _), *rest = options = _options([now, *values], wanted, own.name, own.key, inherit=True)
    labels = [label for label, _ in rest]
    searched = [start, *labels] if all_of_them and start not in labels else labels
    return dataclasses.replace(
        own, spec=Categorical(*dict.fromkeys(searched)), start=start, options=dict(reversed(options))
    )


def _some(items: Any, where: str) -> Sequence[Any]:
    if not items:
        raise InvalidInputError(f"{where} is empty: there is nothing to choose from")
    return tuple(items)


def _options(
    values: Sequence[Configured], wanted: SpaceSelection, name: str, key: str, inherit: bool
) -> list[tuple[str, Option]]:
    """The objects under their labels, with what varies below each."""
    options = []
    for value in values:
        below = _dimensions(value, wanted, f"{name}.", "", inherit)
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
    """An object as a spec string: its name, and what it holds that is neither the default nor searched."""
    settings = value.SETTINGS.items()  # the object's own: an explainer of captum's has more of them than its class
    kept = {n: v for n, s in settings if n not in searched and not s.is_default(v := getattr(value, n))}
    name = value.NAME or type(value).__name__
    return name + (f":{','.join(f'{n}={_words(v)}' for n, v in kept.items())}" if kept else "")


def _words(value: Any) -> str:
    """A setting in a label; tensors by shape and content, so that two of them differ."""
    if isinstance(value, Tensor):
        content = zlib.crc32(value.detach().cpu().double().numpy().tobytes())
        return f"tensor{tuple(value.shape)}#{content:08x}"
    return repr(value)


def _needs_nothing(cls: type[Configured]) -> bool:
    """Whether a class can be made from its name alone, without a required setting."""
    return all(setting.default is not dataclasses.MISSING for setting in cls.SETTINGS.values())

"""Settings as a search space: what the specs of `core.params` mean to Optuna."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xaikit.core import Categorical, Choice, Configured, Explainer, Float, Int, Spec
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.params import Number

if TYPE_CHECKING:
    import optuna

GRID_POINTS = 10  # of a range without a step
SAMPLERS = ("tpe", "random", "grid")


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One setting that the search varies.

    Attributes:
        name: of the setting.
        spec: where to look.
        current: the setting's value in the explainer that is tuned.
    """

    name: str
    spec: Spec
    current: Any

    @property
    def inside(self) -> bool:
        """Whether the current value lies in the search space."""
        return self._on_range(self.label) if isinstance(self.spec, Number) else self.label in self.choices

    @property
    def label(self) -> Any:
        """The current value as the search writes it: a number, a word, a truth value."""
        if isinstance(self.current, Configured):
            plain = self.current.NAME in self.choices and self.current == type(self.current)()
            return self.current.NAME if plain else repr(self.current)
        return self.current

    @property
    def choices(self) -> list[Any]:
        """The values of a dimension that is no range."""
        if isinstance(self.spec, Choice):
            return [n for n in self.spec.names if _needs_nothing(self.spec.registry.get(n))]
        return list(self.spec.choices) if isinstance(self.spec, Categorical) else []

    @property
    def size(self) -> float:
        """How many values there are; infinite for a continuous range."""
        if isinstance(self.spec, Float) and self.spec.step is None:
            return math.inf
        return len(self._stepped()) if isinstance(self.spec, Number) else len(self.choices)

    @property
    def farthest(self) -> Any:
        """The value that differs most from the current one."""
        if not isinstance(self.spec, Number):
            return next((c for c in self.choices if c != self.label), self.label)
        low, high = self.grid()[0], self.grid()[-1]
        at = math.log if self.spec.log else float
        value = min(max(self.current, low), high)
        return high if at(high) - at(value) >= at(value) - at(low) else low

    def suggest(self, trial: optuna.Trial) -> Any:
        """Let a trial choose."""
        spec = self.spec
        if isinstance(spec, Float):
            return self.tidy(trial.suggest_float(self.name, spec.low, spec.high, step=spec.step, log=spec.log))  # type: ignore[arg-type]
        if isinstance(spec, Int):
            return trial.suggest_int(self.name, int(spec.low), int(spec.high), step=int(spec.step or 1), log=spec.log)  # type: ignore[arg-type]
        return trial.suggest_categorical(self.name, self.choices)

    def tidy(self, value: Any) -> Any:
        """A value that Optuna chose, free of rounding: 0.05 + 5 * 0.05 is not quite 0.3."""
        return round(value, 12) if isinstance(self.spec, Float) and self.spec.step is not None else value

    def grid(self) -> list[Any]:
        """The values that a grid search tries."""
        if not isinstance(self.spec, Number):
            return self.choices
        if self.size <= GRID_POINTS or self.spec.step is not None:
            return self._stepped()
        space = np.geomspace if self.spec.log else np.linspace
        points = space(self.spec.low, self.spec.high, GRID_POINTS).tolist()  # type: ignore[arg-type]
        if isinstance(self.spec, Int):
            return sorted({round(p) for p in points})
        return [float(f"{p:.12g}") for p in points]

    def _stepped(self) -> list[Any]:
        spec = self.spec
        step = spec.step or 1  # type: ignore[attr-defined]
        count = math.floor((spec.high - spec.low) / step + 1e-9) + 1  # type: ignore[attr-defined]
        values = [round(spec.low + i * step, 12) for i in range(count)]  # type: ignore[attr-defined]
        return [int(v) for v in values] if isinstance(spec, Int) else values

    def _on_range(self, value: Any) -> bool:
        spec = self.spec
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not spec.low <= value <= spec.high:  # type: ignore[attr-defined]
            return False
        steps = (value - spec.low) / (spec.step or 1)  # type: ignore[attr-defined]
        return spec.step is None or abs(steps - round(steps)) < 1e-8  # type: ignore[attr-defined]


def dimensions(explainer: Explainer, space: Mapping[str, Spec] | Sequence[str] | None) -> list[Dimension]:
    """The dimensions of a search over an explainer's settings.

    Args:
        explainer: what is tuned.
        space: names among its tunables, or specs by setting's name; None takes all its tunables.

    Raises:
        InvalidInputError: when nothing is left to vary.
        InvalidTypeError: for a space that is neither, or a spec without a search range.
        UnknownNameError: for a setting that the explainer does not have; near names are given.
    """
    specs: Mapping[str, Any] = explainer.get_tunables()
    settings = explainer.settings()
    if isinstance(space, Mapping):
        _known(explainer, space, settings)
        specs = space
    elif space is not None:
        if isinstance(space, str) or not isinstance(space, Sequence):
            raise InvalidTypeError(f"space must hold names of settings, or specs by name, got {space!r}")
        _known(explainer, space, specs)
        specs = {name: specs[name] for name in space}
    for name, spec in specs.items():
        if not isinstance(spec, (Float, Int, Categorical, Choice)) or (isinstance(spec, Number) and not spec.tunable):
            raise InvalidTypeError(f"the space of {name!r} must be a spec with a search range, got {spec!r}")
    if not specs:
        raise InvalidInputError(
            f"{type(explainer).__name__} has no setting to tune; pass space={{setting: Float(low=, high=)}}, "
            f"its settings are {', '.join(settings)}"
        )
    return [Dimension(name, spec, settings[name]) for name, spec in specs.items()]


def make_sampler(name: str, dims: Sequence[Dimension], seed: int) -> optuna.samplers.BaseSampler:
    """Optuna's sampler of that name: "tpe", "random" or "grid".

    Raises:
        UnknownNameError: for another name.
    """
    import optuna

    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    if name == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    if name == "grid":
        return optuna.samplers.GridSampler({d.name: d.grid() for d in dims}, seed=seed)
    raise UnknownNameError(f"unknown sampler {name!r}{near_names(str(name), SAMPLERS)}")


def _known(explainer: Explainer, names: Mapping[str, Any] | Sequence[str], known: Mapping[str, Any]) -> None:
    for name in names:
        if name not in known:
            raise UnknownNameError(f"{type(explainer).__name__} cannot tune {name!r}{near_names(str(name), known)}")


def _needs_nothing(cls: type[Configured]) -> bool:
    """Whether a class can be made from its name alone, without a required setting."""
    return all(setting.default is not dataclasses.MISSING for setting in cls.SETTINGS.values())

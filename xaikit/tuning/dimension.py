"""One setting that a search varies, and the settings that exist only under some of its values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from xaikit.core import Categorical, Configured, Float, Int, Spec
from xaikit.core.params import Number

if TYPE_CHECKING:
    import optuna

GRID_POINTS = 10  # of a range without a step


@dataclasses.dataclass(frozen=True)
class Option:
    """One object that a choice may take.

    Attributes:
        value: the object with the settings that it starts from.
        below: the settings of the object that the search varies where it is chosen.
    """

    value: Configured
    below: tuple[Dimension, ...] = ()


@dataclasses.dataclass(frozen=True)
class Dimension:
    """One setting that the search varies.

    Attributes:
        name: of the setting, with the choices above it: "baseline.sigma".
        key: its name for Optuna, which also holds the choice under which it exists: "baseline=blur.sigma".
        spec: where to look; a choice among objects is a `Categorical` of their labels.
        start: the value that the search begins with: a number, a word, a truth value, an object's label.
        options: the objects by label, where the setting holds one.
    """

    name: str
    key: str
    spec: Spec
    start: Any
    options: Mapping[Any, Option] = dataclasses.field(default_factory=lambda: MappingProxyType({}))

    @property
    def setting(self) -> str:
        """The setting's own name."""
        return self.name.rpartition(".")[2]

    @property
    def choices(self) -> list[Any]:
        """The values of a dimension that is no range."""
        return list(self.spec.choices) if isinstance(self.spec, Categorical) else []

    @property
    def fixed(self) -> bool:
        """Whether it has a single value: the object stays, and only its own settings vary."""
        return self.choices == [self.start]

    def below(self, label: Any) -> tuple[Dimension, ...]:
        """The dimensions that exist only where this one has that value."""
        return self.options[label].below if label in self.options else ()

    def contains(self, label: Any) -> bool:
        """Whether a value lies in the search space."""
        spec = self.spec
        if not isinstance(spec, Number):
            return any(type(c) is type(label) and c == label for c in self.choices)
        if isinstance(label, bool) or not isinstance(label, (int, float)) or not spec.low <= label <= spec.high:  # type: ignore[operator]
            return False
        steps = (label - spec.low) / (spec.step or 1)  # type: ignore[operator]
        return (spec.step is None and not isinstance(spec, Int)) or abs(steps - round(steps)) < 1e-8

    @property
    def size(self) -> float:
        """The number of values, counted with those of the settings below; infinite for a continuous range."""
        if isinstance(self.spec, Float) and self.spec.step is None:
            return math.inf
        if isinstance(self.spec, Number):
            return len(self._stepped())
        return sum(math.prod(d.size for d in self.below(c)) for c in self.choices)

    @property
    def farthest(self) -> Any:
        """The value that differs most from the one at the start."""
        if not isinstance(self.spec, Number):
            return next((c for c in self.choices if c != self.start), self.start)
        low, high = self.grid()[0], self.grid()[-1]
        at = math.log if self.spec.log else float
        value = low if self.start is None else min(max(self.start, low), high)
        return high if at(high) - at(value) >= at(value) - at(low) else low

    def suggest(self, trial: optuna.Trial) -> Any:
        """Let a trial choose."""
        spec = self.spec
        if isinstance(spec, Float):
            return self.tidy(trial.suggest_float(self.key, spec.low, spec.high, step=spec.step, log=spec.log))  # type: ignore[arg-type]
        if isinstance(spec, Int):
            return trial.suggest_int(self.key, int(spec.low), int(spec.high), step=int(spec.step or 1), log=spec.log)  # type: ignore[arg-type]
        return trial.suggest_categorical(self.key, self.choices)

    def tidy(self, value: Any) -> Any:
        """A value that Optuna chose, without rounding errors: 0.05 + 5 * 0.05 is not exactly 0.3."""
        return round(value, 12) if isinstance(self.spec, Float) and self.spec.step is not None else value

    def grid(self) -> list[Any]:
        """The values that a grid search tries."""
        spec = self.spec
        if not isinstance(spec, Number):
            return self.choices
        if spec.step is not None or (isinstance(spec, Int) and len(self._stepped()) <= GRID_POINTS):
            return self._stepped()
        space = np.geomspace if spec.log else np.linspace
        points = space(spec.low, spec.high, GRID_POINTS).tolist()  # type: ignore[arg-type]
        if isinstance(spec, Int):
            return sorted({round(p) for p in points})
        return [float(f"{p:.12g}") for p in points]

    def describe(self) -> dict[str, Any]:
        """The range or the choices as plain JSON values."""
        if isinstance(self.spec, Categorical):
            return {"choices": self.choices}
        return {n: getattr(self.spec, n) for n in ("kind", "low", "high", "step", "log")}

    def _stepped(self) -> list[Any]:
        spec: Any = self.spec
        step = spec.step or 1
        count = math.floor((spec.high - spec.low) / step + 1e-9) + 1
        values = [round(spec.low + i * step, 12) for i in range(count)]
        return [int(v) for v in values] if isinstance(spec, Int) else values

"""The search space: a tree of settings, some of which exist only under one choice of another setting.

For example, only if ``baseline`` is ``blur`` there is a ``baseline.sigma``. A point of the space is a flat dict from
dotted names to plain values, such as ``{"baseline": "blur", "baseline.sigma": 2.0}``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

from xaikit.core import Configured
from xaikit.tuning.dimension import Dimension, Option

Point = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class SearchedObject:
    """One object that the search makes: an object whose settings vary, or one of several objects.

    Attributes:
        value: the object; where one of several is chosen, the first.
        dims: its settings; where one of several is chosen, that choice alone.
        chosen: whether one of several is chosen.
    """

    value: Configured
    dims: tuple[Dimension, ...]
    chosen: bool = False

    def make(self, point: Point) -> Configured:
        """The object at a point of the space."""
        if self.chosen:
            (dim,) = self.dims
            return _create(dim.options[point.get(dim.name, dim.start)], point)
        return _create(Option(self.value, self.dims), point)


def _create(option: Option, point: Point) -> Configured:
    changes = {}
    for dim in option.below:
        label = point.get(dim.name, dim.start)
        changes[dim.setting] = _create(dim.options[label], point) if label in dim.options else label
    return option.value.set_kwargs(**changes) if changes else option.value


@dataclasses.dataclass(frozen=True)
class Space:
    """All that a search varies, in one or several parts."""

    parts: tuple[SearchedObject, ...]

    @property
    def dims(self) -> tuple[Dimension, ...]:
        """The dimensions that always exist."""
        return tuple(d for part in self.parts for d in part.dims)

    def make(self, point: Point) -> tuple[Any, ...]:
        """The objects at a point, one for each part."""
        return tuple(part.make(point) for part in self.parts)

    def walk(self, pick: Callable[[Dimension], Any]) -> Point:
        """The point that `pick` chooses: it is called for each dimension that exists under the choices made so far."""
        point: Point = {}

        def descend(dims: tuple[Dimension, ...]) -> None:
            for dim in dims:
                label = dim.start if dim.fixed else pick(dim)
                if not dim.fixed:
                    point[dim.name] = label
                descend(dim.below(label))

        descend(self.dims)
        return point

    @property
    def start(self) -> Point:
        """The point where the search begins: the objects as the user passed them."""
        return self.walk(lambda dim: dim.start)

    def contains(self, point: Point) -> bool:
        """Whether a point lies in the search space; the start may lie outside."""
        inside: list[bool] = []

        def check(dim: Dimension) -> Any:
            inside.append(dim.contains(point[dim.name]))
            return point[dim.name]

        self.walk(check)
        return all(inside)

    @property
    def size(self) -> float:
        """The number of points; infinite if a range is continuous."""
        return math.prod(d.size for d in self.dims)

    def moved(self) -> list[Point]:
        """Points that differ from the start in one setting, whose value is as far from the start as possible."""
        active: list[Dimension] = []
        self.walk(lambda dim: active.append(dim) or dim.start)  # type: ignore[func-returns-value]
        return [self.walk(lambda dim, moved=moved: dim.farthest if dim is moved else dim.start) for moved in active]  # type: ignore[misc]

    def each(self) -> list[Point]:
        """If one of several objects is chosen: a point for each of them, with its original settings."""
        roots = [part.dims[0] for part in self.parts if part.chosen]
        return [self.walk(lambda dim, r=r, c=c: c if dim is r else dim.start) for r in roots for c in r.choices]  # type: ignore[misc]

    def grid(self) -> Iterator[Point]:
        """Every point of the grid: ten values of a range without a step, all values of the rest."""

        def points(dims: tuple[Dimension, ...]) -> Iterator[Point]:
            options = (
                [
                    {**({} if dim.fixed else {dim.name: label}), **below}
                    for label in dim.grid()
                    for below in points(dim.below(label))
                ]
                for dim in dims
            )
            for combination in itertools.product(*options):
                yield {name: value for part in combination for name, value in part.items()}

        return points(self.dims)

    def describe(self) -> dict[str, Any]:
        """Every dimension by its name for Optuna: its dotted name, its range or choices, and when it exists."""
        described: dict[str, Any] = {}

        def note(dims: tuple[Dimension, ...], when: Point) -> None:
            for dim in dims:
                if not dim.fixed:
                    described[dim.key] = {"name": dim.name, "when": when, **dim.describe()}
                for label, option in dim.options.items():
                    note(option.below, when if dim.fixed else {**when, dim.name: label})

        note(self.dims, {})
        return described

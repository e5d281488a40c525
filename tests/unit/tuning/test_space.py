"""The search space: conditions, names, what a user may narrow; every point of it makes a legal object."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaikit.core import BASELINES, Categorical, Choice, Configured, Explainer, Float, Int
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.core.registry import Registry
from xaikit.explainers import Gradient, IntegratedGradients, SmoothGrad, VarGrad
from xaikit.transforms import Constant, Postprocessor
from xaikit.tuning import tune
from xaikit.tuning.space_selection import SpaceSelection, make_space, part_of_one, part_of_several

INNER: Registry = Registry("inner")
KINDS: Registry = Registry("kind")


@INNER.register("plain")
@KINDS.register("plain")
class Plain(Configured):
    pass


class Blurred(Configured):
    sigma: Annotated[float, Float(low=1, high=4, gt=0), "width"] = 2.0
    edge: Annotated[str, Categorical("wrap", "stop", search=False), "not searched"] = "wrap"


INNER.register("blurred")(Blurred)


@KINDS.register("nested")
class Nested(Configured):
    inner: Annotated[Any, Choice(INNER, search=True), "one below another"] = "blurred"
    width: Annotated[int, Int(low=1, high=5, step=2), "whole"] = 3


@KINDS.register("needy")
class Needy(Configured):
    value: Annotated[float, Float(), "required"]


class Owner(Explainer):
    kind: Annotated[Any, Choice(KINDS, search=True), "searched"] = "plain_kind"
    other: Annotated[Any, Choice(INNER), "not searched"] = "blurred"
    level: Annotated[float, Float(low=0, high=1, step=0.25), "number"] = 0.5

    def _attribute(self, call):
        return call.inputs


@KINDS.register("plain_kind")
class PlainKind(Configured):
    pass


KINDS._items.pop("plain")


def space_of(value, wish=None):
    wanted = SpaceSelection(wish)
    return make_space([part_of_one(value, wanted)], wanted)


def test_what_hangs_below_a_choice_exists_only_there():
    described = space_of(Owner()).describe()
    assert set(described) == {
        "kind",
        "kind=nested.inner",
        "kind=nested.inner=blurred.sigma",
        "kind=nested.width",
        "level",
    }
    sigma = described["kind=nested.inner=blurred.sigma"]
    assert sigma["name"] == "kind.inner.sigma"
    assert sigma["when"] == {"kind": "nested", "kind.inner": "blurred"}
    assert described["kind"]["choices"] == ["nested", "plain_kind"]  # "needy" cannot be made from its name alone
    space = space_of(Owner())
    assert space.start == {"kind": "plain_kind", "level": 0.5}
    point = {"kind": "nested", "kind.inner": "blurred", "kind.inner.sigma": 3.5, "kind.width": 1, "level": 0.25}
    assert space.make(point) == (Owner(kind=Nested(inner=Blurred(sigma=3.5), width=1), level=0.25),)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_point_makes_a_legal_object_and_reads_back(data):
    space = space_of(Owner(kind=Nested(inner="plain", width=5)), "all")

    def pick(dim):
        if dim.choices:
            return data.draw(st.sampled_from(dim.choices))
        return data.draw(st.sampled_from(dim.grid()))

    point = space.walk(pick)
    assert space.contains(point)
    (made,) = space.make(point)
    # The same settings are the start of a space around the object that they made.
    assert {**point, **space_of(made, "all").start} == point
    assert space_of(made, "all").make(space_of(made, "all").start) == (made,)


def test_the_grid_is_every_point_once():
    space = space_of(Owner(), ["kind", "level"])
    narrow = space_of(Owner(), {"kind": None, "kind.inner.sigma": [1.0, 2.0], "level": None})
    points = list(narrow.grid())
    # plain_kind: 5 levels; nested: 3 widths * (plain + 2 sigmas) * 5 levels.
    assert len(points) == narrow.size == 5 + 3 * 3 * 5
    assert len({str(sorted(p.items())) for p in points}) == len(points)
    assert space.size == float("inf")


def test_the_present_object_stands_for_its_kind():
    start = Owner(kind=Nested(inner=Blurred(sigma=3.0), width=1))
    space = space_of(start)
    assert space.start == {
        "kind": "nested",
        "kind.inner": "blurred",
        "kind.inner.sigma": 3.0,
        "kind.width": 1,
        "level": 0.5,
    }
    assert space.make(space.start) == (start,)
    # What is not searched is kept, and told in the label.
    other = Owner(kind=Nested(inner=Blurred(sigma=3.0, edge="stop")))
    space = space_of(other)
    assert space.start["kind.inner"] == "blurred:edge='stop'"
    assert space.describe()["kind=nested.inner"]["choices"] == ["blurred:edge='stop'", "blurred", "plain"]
    assert space.make(space.start) == (other,)


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        (None, {"kind", "kind.inner", "kind.inner.sigma", "kind.width", "level"}),
        ("all", {"kind", "kind.inner", "kind.inner.sigma", "kind.width", "level", "other", "other.sigma"}),
        (["level"], {"level"}),
        (["kind"], {"kind", "kind.inner", "kind.inner.sigma", "kind.width"}),
        (["other"], {"other", "other.sigma"}),
        (["other.sigma"], {"other.sigma"}),
        ({"kind": ["plain_kind", "nested:width=1"]}, {"kind", "kind.inner", "kind.inner.sigma", "kind.width"}),
        ({"kind": ["plain_kind", Nested(inner="plain")]}, {"kind", "kind.inner", "kind.inner.sigma", "kind.width"}),
        ({"level": Float(low=0.1, high=0.2)}, {"level"}),
        ({"level": [0.0, 1.0], "other.sigma": Float(low=1, high=2)}, {"level", "other.sigma"}),
    ],
)
def test_a_wish_narrows_by_dotted_names(wish, names):
    space = space_of(Owner(), wish)
    assert {entry["name"] for entry in space.describe().values()} == names
    assert space.make(space.start) == (Owner(),)


def test_a_narrower_range_below_a_choice():
    space = space_of(Owner(), {"kind": None, "kind.width": Int(low=2, high=3)})
    assert space.describe()["kind=nested.width"]["low"] == 2
    assert "kind=nested.inner=blurred.sigma" in space.describe()


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        (["levle"], UnknownNameError, "Owner cannot tune 'levle'; did you mean 'level'"),
        (["other.sgima"], UnknownNameError, "cannot tune 'other.sgima'; did you mean 'other.sigma'"),
        (["layer"], UnknownNameError, "cannot tune 'layer'"),
        ({"level": Float(ge=0)}, InvalidTypeError, "the space of 'level' must be a spec with a search range"),
        ({"level": 3}, InvalidTypeError, "the space of 'level' must be a spec with a search range"),
        ({"kind": []}, InvalidInputError, "the space of 'kind' is empty"),
        ({"kind": "nested"}, InvalidTypeError, "the space of 'kind' must be a list to choose from, got 'nested'"),
        ({"kind": ["nestde"]}, UnknownNameError, "unknown kind 'nestde'; did you mean 'nested'"),
        ([], InvalidInputError, "the space is empty: it must name a setting .* such as one of kind, level"),
        ({"level": [0.5]}, InvalidInputError, "the space is empty: it must name a setting with more than one value"),
        ({"level": []}, InvalidInputError, "the space of 'level' is empty"),
        ({"level": [0.5, "high"]}, InvalidTypeError, "the space of 'level' must be a number, got 'high'"),
        ({"other": ["blurred"], "other.sigma": [0, 2]}, InvalidInputError, "the space of 'other.sigma' must be > 0"),
        ({"other.sigma": Float(low=-1, high=2)}, InvalidInputError, "the space of 'other.sigma' must be > 0, got -1"),
        (7, InvalidTypeError, "space must hold names of settings"),
    ],
)
def test_a_wish_that_cannot_be(wish, error, words):
    with pytest.raises(error, match=words):
        space_of(Owner(), wish)


def several(*explainers, wish=None):
    wanted = SpaceSelection(wish)
    return make_space([part_of_several(explainers, wanted, "explainer")], wanted)


def test_one_of_several_explainers():
    model = nn.Linear(3, 2)
    smooth, gradient = SmoothGrad(model, n_iter=30), Gradient(model)
    space = several(smooth, gradient, VarGrad(model, layer="0"))
    assert space.describe()["explainer"]["choices"] == ["smoothgrad", "gradient", "vargrad:layer='0'"]
    assert space.start == {"explainer": "smoothgrad", "explainer.noise_level": 0.1, "explainer.n_iter": 30}
    assert space.make({"explainer": "gradient"}) == (gradient,)
    assert [p["explainer"] for p in space.each()] == ["smoothgrad", "gradient", "vargrad:layer='0'"]
    with pytest.raises(InvalidInputError, match="'smoothgrad' stands twice"):
        several(smooth, SmoothGrad(model))
    assert set(several(smooth, gradient, wish=["explainer.n_iter"]).describe()) == {
        "explainer",
        "explainer=smoothgrad.n_iter",
    }


def net():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def test_the_best_of_several_explainers_is_the_best_alone():
    model = net()
    data = (torch.rand(30, 4), torch.arange(30) % 2)
    found = tune([VarGrad(model), "integrated_gradients", "gradient"], "abpc", data, n_trials=20, progress=False)
    assert [row["settings"]["explainer"] for row in found.trials[:3]] == ["vargrad", "integrated_gradients", "gradient"]
    for row, default in zip(found.trials, (VarGrad(model), IntegratedGradients(model), Gradient(model)), strict=False):
        assert row["value"] == found.metric.evaluate(default, *data).double().mean().item()
    winner = max(found.trials, key=lambda row: row["value"])
    assert winner["settings"]["explainer"] == found.best.NAME
    assert found.best.model is model
    assert found.default_value == found.trials[0]["value"]


def test_an_explainer_that_always_fails_does_not_end_the_search():
    class Broken(Gradient):
        def _attribute(self, call):
            raise InvalidInputError("never works")

    model = net()
    data = (torch.rand(6, 4), 0)
    found = tune([Broken(model), SmoothGrad(model)], "abpc", data, n_trials=8, progress=False)
    failed = [row for row in found.trials if row["state"] == "failed"]
    assert {row["error"] for row in failed} == {"InvalidInputError: never works"}
    assert sum(row["repeats"] is None for row in failed) == 1
    assert found.best.NAME == "smoothgrad"


def test_a_choice_of_baselines_with_the_users_own_tensor():
    model = net()
    mine, other = torch.full((4,), 0.3), torch.full((4,), 0.4)
    space = {"baseline": ["zeros", Constant(value=0.5), mine, other], "n_steps": [5, 10]}
    found = tune(
        IntegratedGradients(model),
        "abpc",
        (torch.rand(8, 4), 0),
        space=space,
        n_trials=30,
        sampler="grid",
        progress=False,
    )
    assert found.stopped == "exhausted"
    labels = {row["settings"]["baseline"] for row in found.trials}
    assert {"zeros", "constant:value=0.5"} < labels
    assert len(labels) == 4
    assert len(found.trials) == 4 * 2 + 1  # and the default, whose n_steps lies outside


def test_baselines_and_what_hangs_below_them_reach_the_attribution():
    model = net()
    found = tune(
        IntegratedGradients(model),
        "abpc",
        (torch.rand(8, 4), 0),
        space="all",
        n_trials=25,
        cautious=False,
        progress=False,
    )
    names = {row["settings"]["baseline"] for row in found.trials}
    assert names <= set(BASELINES)
    assert len(names) > 2
    assert found.best.spec()["settings"]["baseline"]["name"] in names


def test_postprocessing_is_searched_with_the_explainer():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2))
    x, y = torch.rand(12, 3, 6, 6), torch.arange(12) % 2
    space = ["postprocess.pooling"]
    found = tune(
        Gradient(model), "abpc", (x, y), space=space, postprocess=True, n_trials=30, cautious=False, progress=False
    )
    assert len({row["value"] for row in found.trials}) > 4
    assert isinstance(found.postprocess, Postprocessor)
    attributions = found.postprocess(found.best.attribute(x, y))
    again = found.metric.evaluate(found.best, x, y, attributions).double().mean().item()
    assert again == found.value
    chosen = max(found.trials, key=lambda row: row["value"])["settings"]["postprocess.pooling"]
    assert chosen == found.postprocess.pooling.NAME

"""Settings as values: checks, copies, specs, registries."""

from __future__ import annotations

import dataclasses
import inspect
import json
from typing import Annotated

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaikit.core import (
    EXPLAINERS,
    METRICS,
    MITIGATORS,
    Categorical,
    Choice,
    Configured,
    Explainer,
    Float,
    Int,
    Registry,
)
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, XaikitError
from xaikit.core.spec_strings import parse_spec
from xaikit.explainers import IntegratedGradients, SmoothGrad, VarGrad

THINGS: Registry = Registry("thing")


@THINGS.register("thing")
class Thing(Configured):
    """A thing."""

    rate: Annotated[float, Float(low=0.1, high=1, gt=0), "a rate"] = 0.5
    count: Annotated[int, Int(low=1, high=9, ge=1), "a count"] = 2
    mode: Annotated[str, Categorical("fast", "slow"), "a mode"] = "fast"
    size: Annotated[tuple[int, int], "a plain hint"] = (1, 2)
    table: Annotated[torch.Tensor | None, "a tensor"] = None


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"rte": 1}, InvalidTypeError, "has no setting 'rte'; did you mean 'rate'?"),
        ({"rate": "high"}, InvalidTypeError, "Thing.rate must be a number, got 'high' of type str"),
        ({"rate": True}, InvalidTypeError, "must be a number"),
        ({"rate": 0}, InvalidInputError, "Thing.rate must be > 0, got 0"),
        ({"rate": float("nan")}, InvalidInputError, "got nan"),
        ({"count": 1.5}, InvalidTypeError, "must be a whole number"),
        ({"count": 0}, InvalidInputError, "must be >= 1"),
        ({"mode": "fsat"}, InvalidInputError, "must be one of 'fast', 'slow', got 'fsat'; did you mean 'fast'?"),
        ({"size": 3}, InvalidTypeError, "Thing.size must be"),
    ],
)
def test_a_wrong_setting_is_told_in_one_sentence(settings, error, words):
    with pytest.raises(error) as caught:
        Thing(**settings)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, XaikitError)


@pytest.mark.parametrize("make", [lambda: Thing(nn.Linear(2, 2)), lambda: SmoothGrad(nn.Linear(2, 2), 8)])
def test_settings_have_names(make):
    with pytest.raises(InvalidTypeError, match=r"takes its settings by name, got .* without a name; write") as caught:
        make()
    assert "\n" not in str(caught.value)


def test_legal_range_is_wider_than_the_search_range():
    assert Thing(rate=7).rate == 7.0
    assert Thing.TUNABLES["rate"].high == 1
    assert set(Thing.TUNABLES) == {"rate", "count", "mode"}


def test_a_value_is_frozen_and_set_kwargs_makes_a_new_one():
    old = Thing()
    with pytest.raises(dataclasses.FrozenInstanceError):
        old.rate = 1.0
    new = old.set_kwargs(rate=1)
    assert (old.rate, new.rate) == (0.5, 1.0)
    assert new != old
    assert new == Thing(rate=1.0)
    assert hash(new) == hash(Thing(rate=1.0))
    assert old.copy() == old
    assert old.copy() is not old


def test_signature_shows_the_settings():
    assert str(inspect.signature(VarGrad)).startswith("(model: torch.nn.modules.module.Module | None = None, *, layer")
    assert inspect.signature(VarGrad).parameters["n_iter"].default == 20


@settings(deadline=None)
@given(
    rate=st.floats(1e-6, 1e6),
    count=st.integers(1, 10**6),
    mode=st.sampled_from(["fast", "slow"]),
    size=st.tuples(*[st.integers()] * 2),
)
def test_spec_goes_through_json(rate, count, mode, size):
    thing = Thing(rate=rate, count=count, mode=mode, size=size)
    assert THINGS.create(json.loads(json.dumps(thing.spec()))) == thing


def test_spec_holds_tensors_and_nested_values():
    thing = Thing(table=torch.tensor([[1.5, 2.0]]))
    assert THINGS.create(json.loads(json.dumps(thing.spec()))) == thing
    explainer = IntegratedGradients(baseline=torch.zeros(3))
    assert EXPLAINERS.create(json.loads(json.dumps(explainer.spec()))) == explainer


def test_a_function_does_not_fit_a_spec():
    with pytest.raises(InvalidInputError, match="set it again with set_kwargs"):
        SmoothGrad(forward_arg_extractor=len).spec()


def test_spec_strings():
    assert parse_spec("a") == ("a", {})
    assert parse_spec("a:x=1,y=[1,2],z=None,w=word") == ("a", {"x": 1, "y": [1, 2], "z": None, "w": "word"})
    assert THINGS.create("thing:rate=1e-2,size=[3,4]") == Thing(rate=0.01, size=(3, 4))
    with pytest.raises(InvalidInputError, match="name:key=value"):
        parse_spec("a:x")


def test_a_layer_in_a_spec_string_is_a_name_also_where_it_looks_like_a_number():
    for text, layer in {"4": "4", "1.10": "1.10", "none": None, "[0,2]": ("0", "2"), '["a.b",3]': ("a.b", "3")}.items():
        assert EXPLAINERS.create(f"gradient:layer={text}").layer == layer
    assert EXPLAINERS.create("gradcam:target_layer=4").target_layer == "4"
    assert MITIGATORS.create("rrr:explainer=gradcam:target_layer=4").explainer.target_layer == "4"
    assert EXPLAINERS.create("gradcam:target_layer=[4,5]").target_layer == ("4", "5")


def test_registry_names():
    with pytest.raises(UnknownNameError, match="unknown thing 'thng'; did you mean 'thing'"):
        THINGS.get("thng")
    with pytest.raises(InvalidInputError, match="already Thing"):
        THINGS.register("thing")(type("Other", (Configured,), {}))
    with pytest.raises(InvalidInputError, match="lower case"):
        THINGS.register("A Thing")
    with pytest.raises(InvalidTypeError, match="expected thing as a name"):
        THINGS.create(3)
    assert "thing" in THINGS
    assert list(THINGS) == ["thing"]


def test_choice_makes_objects():
    class Holder(Configured):
        """Holds a thing."""

        thing: Annotated[Configured, Choice(THINGS), "a thing"] = "thing"

    assert Holder().thing == Thing()
    assert Holder(thing="thing:count=3").thing.count == 3
    assert Holder(thing=Thing).thing == Thing()
    with pytest.raises(InvalidTypeError, match="Holder.thing: expected thing"):
        Holder(thing=3)


def test_a_subclass_inherits_settings_and_may_change_a_default():
    class Longer(SmoothGrad):
        """More copies."""

        n_iter = 50

    assert Longer().n_iter == 50
    assert Longer.TUNABLES["n_iter"] == SmoothGrad.TUNABLES["n_iter"]
    assert SmoothGrad().n_iter == 20


def test_hints_may_name_what_is_local():
    from xaikit.core import Float as Number

    class Local(Configured):
        """A setting whose spec is a local variable of the function."""

        rate: Annotated[float, Number(ge=0), "a rate"] = 1.0

    with pytest.raises(InvalidInputError, match="Local.rate must be >= 0"):
        Local(rate=-1)


def test_an_explainer_of_ones_own_needs_no_registration():
    class Mine(Explainer):
        """Mine."""

        def _attribute(self, call):
            return call.inputs

    x = torch.ones(1, 2)
    assert torch.equal(EXPLAINERS.create(Mine()).bind(torch.nn.Linear(2, 1)).attribute(x), x)
    with pytest.raises(InvalidInputError, match="no registered name"):
        Mine().spec()


def test_a_broken_plugin_warns_and_the_rest_works(monkeypatch):
    class Broken:
        name, value = "broken", "nowhere:Nothing"

        def load(self):
            raise ImportError("no module named nowhere")

    monkeypatch.setattr(
        "xaikit.core.registry.entry_points", lambda group: [Broken()] if group == "xaikit.gadgets" else []
    )
    gadgets: Registry = Registry("gadget")
    gadgets.register("fine")(type("Fine", (Configured,), {"__doc__": "Fine."}))
    with pytest.warns(UserWarning, match="gadget plugin 'broken' \\(nowhere:Nothing\\) did not load"):
        assert list(gadgets) == ["fine"]


def test_builtin_registries_are_filled():
    assert {"gradient", "vargrad", "integrated_gradients", "lrp_epsilon_plus"} <= set(EXPLAINERS)
    assert {"morf", "lerf", "abpc"} <= set(METRICS)


def test_a_plugin_that_exits_warns_too(monkeypatch):
    class Exits:
        name, value = "exits", "script:main"

        def load(self):
            raise SystemExit("done")

    monkeypatch.setattr("xaikit.core.registry.entry_points", lambda group: [Exits()])
    with pytest.warns(UserWarning, match="'exits' \\(script:main\\) did not load"):
        assert list(Registry("tool")) == []


def test_messages_say_each_thing_once():
    with pytest.raises(InvalidInputError, match="must be finite, got inf"):
        VarGrad(noise_level=float("inf"))
    with pytest.raises(InvalidInputError) as caught:
        IntegratedGradients(method="riemann")
    assert str(caught.value).endswith("must be one of 'gausslegendre', 'trapezoid', got 'riemann'")


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ({"name": "smoothgrad", "n_iter": 50}, "smoothgrad:n_iter=50"),  # as one writes it in a job file
        ({"name": "smoothgrad", "settings": None}, "smoothgrad"),
        (
            "integrated_gradients:baseline=(constant:value=0.5),n_steps=3",
            "integrated_gradients:n_steps=3,baseline=constant:value=0.5",
        ),
    ],
)
def test_settings_of_a_spec_may_stand_beside_its_name_or_in_parentheses(spec, same):
    assert EXPLAINERS.create(spec) == EXPLAINERS.create(same)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"name": "smoothgrad", "setings": {"n_iter": 5}}, "SmoothGrad has no setting 'setings'"),
        ({"name": "smoothgrad", "settings": {"n_iter": 5}, "seed": 3}, "'seed' beside them"),
        ({"name": "smoothgrad", "settings": [5]}, "settings of type list"),
        ({"name": 3}, "expected explainer as a name"),
    ],
)
def test_a_spec_dict_of_another_form_is_refused(spec, words):
    with pytest.raises(InvalidTypeError, match=words):
        EXPLAINERS.create(spec)

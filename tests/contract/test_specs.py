"""Specs of everything that is registered: through JSON and back to an equal object; equality and hash never raise."""

from __future__ import annotations

import json
import math
import pickle
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import (
    EXPLAINERS,
    METRICS,
    MITIGATORS,
    Concept,
    ContextualDecomposition,
    GradCam,
    Gradient,
    IntegratedGradients,
)
from xaikit.core import (
    BASELINES,
    FACTORS,
    FEATURE_MASKS,
    MODALITIES,
    NORMALIZATIONS,
    POOLINGS,
    POSTPROCESSORS,
    PROJECTIONS,
    Configured,
    Registry,
)
from xaikit.core.errors import InvalidInputError
from xaikit.mitigation import Direction
from xaikit.transforms import Given

REGISTRIES = (
    EXPLAINERS, METRICS, MITIGATORS, BASELINES, FEATURE_MASKS, MODALITIES, NORMALIZATIONS, POOLINGS, POSTPROCESSORS,
    PROJECTIONS, FACTORS,
)  # fmt: skip
ITEMS = [(registry, name) for registry in REGISTRIES for name in registry]
TENSOR = torch.tensor([[0.5, -math.inf, math.nan], [1e-30, 3.0, math.inf]])
CONCEPT = Concept("0", torch.tensor([0.6, 0.8]), torch.zeros(2), torch.ones(2))
# What an item cannot do without.
NEEDED: dict[str, dict[str, Any]] = {
    "rr_clarc": {"concept": CONCEPT},
    "a_clarc": {"concept": CONCEPT},
    "baseline sample": {"samples": TENSOR},
    "baseline token_id": {"token": 103},
    "baseline given": {"tensor": TENSOR},
    "baseline per_input": {"items": ("zeros", torch.rand(1, 4), ("mean", 0.5))},
    "factor words": {"names": ("text", "video")},
    "factor together": {"factors": ("brightness", "frequencies:band=high,cutoff=0.2")},
    "factor column": {"names": ("race",)},
    "feature mask given": {"ids": torch.arange(6).view(2, 3)},
    "feature mask per_input": {"items": ("columns", torch.arange(4)[None])},
    "modality multimodal": {"modalities": ("image", "text:feature_mask=tokens")},
    "projection channel_subspace": {"vectors": torch.rand(2, 3)},
    "projection direction": {"vector": torch.rand(3)},
}
FUNCTIONS = {"feature mask computed": len, "projection function": len}  # no spec holds a function


def simplest(registry: Registry[Any], name: str) -> Configured:
    """An object with its defaults, and values for its required settings."""
    return registry.get(name)(**NEEDED.get(f"{registry.kind} {name}", NEEDED.get(name, {})))


def again(registry: Registry[Any], value: Configured) -> Any:
    text = json.dumps(value.spec(), allow_nan=False)
    return registry.create(json.loads(text))


def check(registry: Registry[Any], value: Configured) -> None:
    other = again(registry, value)
    assert other == value
    assert (other != value) is False
    assert hash(other) == hash(value)
    assert type(other) is type(value)
    assert repr(other) == repr(value)
    assert again(registry, other).spec() == value.spec()
    assert pickle.loads(pickle.dumps(value)) == value
    assert value != object()
    assert value in [value]
    assert value not in [None, 3, "x", TENSOR]


@pytest.mark.parametrize(("registry", "name"), ITEMS, ids=[f"{r.kind}-{n}" for r, n in ITEMS])
def test_everything_registered_comes_back_from_json(registry, name):
    if f"{registry.kind} {name}" in FUNCTIONS:
        with pytest.raises(InvalidInputError, match=r"function is a .*function.*, which a spec cannot hold"):
            registry.get(name)(function=FUNCTIONS[f"{registry.kind} {name}"]).spec()
        return
    check(registry, simplest(registry, name))


HARD = [
    (EXPLAINERS, "expected_gradients", {"references": torch.rand(5, 4)}),
    (EXPLAINERS, "expected_gradients", {"references": (torch.rand(2, 3), torch.rand(2, 4, dtype=torch.float64))}),
    (EXPLAINERS, "integrated_gradients", {"baseline": ("zeros", "mean")}),
    (EXPLAINERS, "integrated_gradients", {"baseline": (torch.rand(1, 4), 0.5, ("zeros", "uniform:random_state=3"))}),
    (EXPLAINERS, "integrated_gradients", {"baseline": np.eye(3, dtype=np.float32), "layer": ["0", "2"]}),
    (EXPLAINERS, "integrated_gradients", {"baseline": Given(tensor=TENSOR), "head": 1, "n_classes": 3}),
    (EXPLAINERS, "lrp_epsilon_gamma_box", {"low": torch.full((3, 1, 1), -2.0), "high": torch.tensor(2)}),
    (EXPLAINERS, "captum", {"algorithm": "Occlusion", "sliding_window_shapes": (1, 3, 3), "strides": [1, 2, 2]}),
    (EXPLAINERS, "captum.lime", {"feature_mask": torch.arange(4)[None], "n_samples": 7}),
    (EXPLAINERS, "captum", {"algorithm": "FeatureAblation", "baseline": (0.0, "mean"), "feature_mask": "columns"}),
    (EXPLAINERS, "contextual_decomposition", {"feature_mask": ("columns", torch.zeros(1, 3, dtype=torch.int64))}),
    (METRICS, "mu_fidelity", {"baseline": ("zeros", TENSOR), "feature_mask": "grid:n_patches=3"}),
    (METRICS, "abpc", {"baseline": torch.rand(3, 4)}),
    (MITIGATORS, "rrr", {"explainer": "integrated_gradients:n_steps=7,baseline=mean", "device": "cpu"}),
    (MITIGATORS, "rrr", {"explainer": IntegratedGradients(baseline=("zeros", torch.rand(1, 2))), "lambda_rrr": 3.0}),
    (MITIGATORS, "rrr", {"what": Direction(vector=torch.rand(3))}),
    (MITIGATORS, "cdep", {"explainer": ContextualDecomposition(feature_mask=("columns", "tokens"))}),
    (MITIGATORS, "hint", {"explainer": "lrp_epsilon_plus:epsilon=0.5"}),
    (POSTPROCESSORS, "postprocessor", {"pooling": "l2norm", "normalization": "maxabs"}),
]


@pytest.mark.parametrize(("registry", "name", "settings"), HARD)
def test_tensors_tuples_and_objects_inside_come_back(registry, name, settings):
    value = registry.get(name)(**settings)
    check(registry, value)
    assert value != registry.create(simplest(registry, name))


DTYPES = ("bool", "uint8", "int64", "float16", "bfloat16", "float32", "float64", "complex64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 0), (2, 3)])
def test_tensors_keep_type_and_shape(dtype, shape):
    dtype = getattr(torch, dtype)
    tensor = (torch.randn(shape) * 3).to(dtype)
    (back,) = [again(BASELINES, Given(tensor=tensor)).tensor]
    assert (back.dtype, back.shape) == (dtype, shape)
    assert torch.equal(back, tensor)
    big = torch.tensor([2**53 + 1, -(2**62)])
    assert torch.equal(again(BASELINES, Given(tensor=big)).tensor, big)


class Odd(Configured):
    REGISTRY: ClassVar[Any] = None
    any_value: Annotated[Any, "anything"] = None
    pairs: Annotated[tuple[tuple[int, str], ...], "pairs"] = ()
    numbers: Annotated[list[int] | None, "a list"] = None


ODDS: Registry[Odd] = Registry("odd")
ODDS.register("odd")(Odd)


@pytest.mark.parametrize(
    "value",
    [
        math.inf,
        -math.inf,
        {"a": torch.tensor([1.0]), "b": {"c": (1, None, [True])}},
        (torch.zeros(2), torch.ones(2)),
        np.float32(0.5),
        [],
        {},
        "None",
    ],
)
def test_values_of_any_kind_come_back(value):
    check(ODDS, Odd(any_value=value, pairs=((1, "a"), (2, "b")), numbers=[1, 2]))


def test_nan_is_equal_to_itself():
    assert Odd(any_value=math.nan) == again(ODDS, Odd(any_value=math.nan))
    assert hash(Odd(any_value=math.nan)) == hash(Odd(any_value=float("nan")))


class Stubborn:
    """Cannot be compared, nor hashed, nor turned into a bool."""

    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("no")


HARD_TO_COMPARE = [np.zeros(3), torch.zeros(3), Stubborn(), {"a": np.zeros(2)}, torch.zeros(2, device="meta")]


@pytest.mark.parametrize("value", HARD_TO_COMPARE)
def test_equality_and_hash_never_raise(value):
    one, other = Odd(any_value=value), Odd(any_value="x")
    assert one == Odd(any_value=value)
    assert one != other
    assert isinstance(hash(one), int)
    assert one in {one}
    a, b = (Gradient(nn.Linear(2, 2)) for _ in range(2))
    assert a != b
    assert a == Gradient(a.model)


@pytest.mark.parametrize("value", [lambda x: x, nn.Linear(1, 1), {(1, 2): 3}, object()])
def test_what_no_json_holds_is_refused_and_described(value):
    with pytest.raises(InvalidInputError, match=r"any_value is a .*, which a spec cannot hold"):
        Odd(any_value=value).spec()


def test_a_layer_that_is_a_module_is_written_by_its_name():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    explainer = GradCam(model, layer=model[0])
    back = EXPLAINERS.create(json.loads(json.dumps(explainer.spec()))).bind(model)
    x = torch.rand(2, 3, 3, 3)
    assert torch.equal(back.attribute(x, 0), explainer.attribute(x, 0))


def test_specs_of_xaikit_0_1_are_still_read():
    old = {"name": "given", "settings": {"tensor": {"tensor": [[1.0, 2.0]], "dtype": "float32"}}}
    assert torch.equal(BASELINES.create(old).tensor, torch.tensor([[1.0, 2.0]]))

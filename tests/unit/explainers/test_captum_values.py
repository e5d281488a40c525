"""Every attribution class of captum through the bridge against captum called directly, on nets of many forms.

Where captum fails on a net, a twin of the net that captum can read tells the values, or the bridge refuses in words.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import re
import warnings

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch import nn

from tests.unit.explainers.captum_nets import MORE, QUICK, Case, randn
from xaikit.core.channel_axes import inputs_of
from xaikit.core.errors import InvalidInputError, XaikitError
from xaikit.explainers import CaptumExplainer
from xaikit.explainers.feature_groups import windows

attr = pytest.importorskip("captum.attr")
captum_version = Version(importlib.metadata.version("captum"))

CLASSES = sorted(
    name
    for name, cls in vars(attr).items()
    if inspect.isclass(cls)
    and hasattr(cls, "attribute")
    and "inputs" in inspect.signature(cls.attribute).parameters
    and name != "LimeBase"  # whose functions of the data are the user's own
)
CHEAP = {"n_steps": 7, "n_samples": 12, "nt_samples": 3}
NO_GRADIENT = {"FeatureAblation", "FeaturePermutation", "KernelShap", "Lime", "Occlusion", "ShapleyValueSampling",
               "ShapleyValues", "NeuronFeatureAblation"}  # fmt: skip
BETWEEN = {"InternalInfluence", "LayerConductance", "LayerGradientShap", "LayerDeepLiftShap"}
LRP = {"LRP", "LayerLRP"}
RULES_OF_RUNS = {"DeepLift", "DeepLiftShap", "NeuronDeepLift", "NeuronDeepLiftShap"}


def refusal(name: str, case: str) -> str | None:
    """The words in which the bridge refuses a class on a net, and why captum is of no use there."""
    layer, neuron = name.startswith(("Layer", "Internal")), name.startswith("Neuron")
    if "ids" in case and not layer and name not in NO_GRADIENT:
        return "inputs of torch.int64 have no gradient"  # captum fails: none of its tensors requires a gradient
    if "ids" in case and name in BETWEEN:
        return "nothing between them"  # captum fails: an embedding takes no fractions
    if case in ("siamese", "a reused layer") and layer:
        return "layer '(encoder|act)' runs 2 times"  # captum gives one of both runs, and does not say which
    if name in LRP and ("ids" in case or case in ("a tuple", "siamese", "in place", "two images", "functions")):
        # Captum has no rule for the layers, or refuses reused ones, or knows no functions and no sum of two branches.
        return None if case in ("in place", "two images", "functions") else f"captum's {name} refuses"
    if name == "LayerLRP" and case == "nested":
        return "captum's LayerLRP refuses"  # it has no rule for a layer of layers
    if case in ("reused", "a reused layer", "siamese") and name in RULES_OF_RUNS and not (case == "reused" and neuron):
        if neuron and case == "siamese":
            return "does not depend on all of them"
        return "needs every activation to be a module that runs once"  # captum: in words of its own
    if neuron and case in ("siamese", "two images") and name != "NeuronFeatureAblation":
        return "does not depend on all of them"  # captum fails: the neuron sees one of the two inputs
    if name == "GuidedGradCam" and case not in ("image", "in place", "two images", "a tuple"):
        return "lays the layer's map over the input"  # captum gives empty tensors
    return None


def constructed(name: str, model: nn.Module, layer: str, options: dict) -> object:
    cls = getattr(attr, name)
    names = inspect.signature(cls).parameters
    chosen = {n: v for n, v in options.items() if n in names and n != "attribution_method"}
    if "attribution_method" in names:
        return cls(constructed(options.get("attribution_method", "Saliency"), model, layer, {}))
    return cls(model, *([dict(model.named_modules())[layer]] if "layer" in names else []), **chosen)


class Score(nn.Module):
    """The explained score alone: captum's LayerFeaturePermutation does not take a target for each sample."""

    def __init__(self, model: nn.Module, target: torch.Tensor | None):
        super().__init__()
        self.model, self.target = model, target

    def forward(self, *inputs):
        output = self.model(*inputs)
        return output if self.target is None else output.gather(1, self.target[:, None])[:, 0]


def arguments_of(name: str, case: Case, rows: slice, options: dict) -> dict:
    """What captum's class gets for some of the samples."""
    inner = options.get("attribution_method", "Saliency" if name == "NoiseTunnel" else name)
    takes = {*inspect.signature(getattr(attr, name).attribute).parameters}
    takes |= {*inspect.signature(getattr(attr, inner).attribute).parameters}
    zeros = tuple(torch.zeros_like(x[:1]) for x in case.inputs)
    with inputs_of(case.model(for_captum=False), case.inputs):  # a recurrent net reads steps first
        shapes, strides = windows(case.inputs, 0.2, 0.5)
    start, groups = 0, []
    for i, x in enumerate(case.inputs):
        ids = torch.arange(x[0].numel()).view(1, *x.shape[1:]) + start if case.groups is None else case.groups[i][None]
        start = int(ids.max()) + 1
        groups.append(ids)
    filled = {
        "baselines": tuple(torch.cat([z, z]) for z in zeros) if inner.endswith("DeepLiftShap") else zeros,
        "layer_baselines": 0,
        "target": None if case.target is None else case.target[rows],
        "feature_mask": tuple(groups),
        "additional_forward_args": tuple(e[rows] for e in case.extras) or None,
        "sliding_window_shapes": tuple(shapes),
        "strides": tuple(strides),
        "attr_dim_summation": False,
        **{n: v for n, v in options.items() if n not in inspect.signature(getattr(attr, name)).parameters},
        **(options.get("attribution_settings") or {}),
    }
    return {n: v for n, v in filled.items() if n in takes and v is not None}


def by_captum(name: str, case: Case, options: dict) -> tuple[torch.Tensor, ...]:
    """Captum called directly, on one sample at a time unless its method needs the batch."""
    n, parts = len(case.inputs[0]), []
    whole = name.endswith("FeaturePermutation")
    for rows in [slice(0, n)] if whole else [slice(i, i + 1) for i in range(n)]:
        # Captum's DeepLift passes the plain gradient through functions, and its missed sum is told.
        twin = not ("DeepLift" in name and case.net is MORE["functions"].net)
        model = case.model(for_captum=twin)
        arguments = arguments_of(name, case, rows, options)
        if whole:
            model = Score(model, arguments.pop("target", None))
        prefix = "model." if whole else ""
        method = constructed(name, model, prefix + (case.twin_layer or case.layer), options)
        inputs = tuple(x[rows].clone().requires_grad_(x.is_floating_point()) for x in case.inputs)
        torch.manual_seed(0)
        np.random.seed(0)
        values = method.attribute(inputs, **arguments)
        parts.append(tuple(v.detach() for v in (values if isinstance(values, tuple) else (values,))))
    return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))


def by_bridge(name: str, case: Case, options: dict) -> tuple[torch.Tensor, ...]:
    count, settings = len(case.inputs), dict(options)
    inner = getattr(attr, options.get("attribution_method", name))
    if "layer" in inspect.signature(inner).parameters:
        settings["layer"] = case.layer
    if case.groups is not None and "feature_mask" in inspect.signature(inner.attribute).parameters:
        settings["feature_mask"] = case.groups
    settings["forward_arg_extractor"] = lambda i: i[:count] if count > 1 else i[0]
    if case.extras:
        settings["additional_forward_arg_extractor"] = lambda i: i[count:]
    explainer = CaptumExplainer(name, **settings).bind(case.model(for_captum=False))
    values = explainer.attribute((*case.inputs, *case.extras), case.target)
    return values if isinstance(values, tuple) else (values,)


def difference(name: str, case_name: str, case: Case, **options) -> str | None:
    """What is wrong with the bridge's answer, if anything is."""
    takes = {*inspect.signature(getattr(attr, name).attribute).parameters}
    options = {n: v for n, v in CHEAP.items() if n in takes} | options
    if "neuron_selector" in takes:
        options = {"neuron_selector": case.neuron if len(case.neuron) > 1 else case.neuron[0], **options}
    if name.endswith("FeaturePermutation"):
        options["perturbations_per_eval"] = 1  # its random numbers come pass by pass
    words = refusal(name, case_name)
    try:
        values = by_bridge(name, case, options)
    except XaikitError as err:
        if words and re.search(words, str(err)):
            return None
        return f"{name} {options}: refused, {err}"
    except Exception as err:  # noqa: BLE001
        return f"{name} {options}: crashed, {type(err).__name__}: {err}"
    if words:
        return f"{name} {options}: gives values, should refuse with {words!r}"
    expected = by_captum(name, case, options)
    if [v.shape for v in values] != [e.shape for e in expected]:
        return (
            f"{name} {options}: shapes {[tuple(v.shape) for v in values]}, captum {[tuple(e.shape) for e in expected]}"
        )
    for value, truth in zip(values, expected, strict=True):
        error = (value.double() - truth.double()).abs().max()
        if error > 1e-5 * truth.double().abs().max().clamp_min(1e-9):  # captum's perturbations answer in float32
            return f"{name} {options}: off by {error:.1e} of {truth.abs().max():.1e}"
    return None


def classes_for(case: Case) -> list[str]:
    count = sum(x[0].numel() for x in case.inputs) if case.groups is None else 5
    # Exact Shapley values take every order of the features.
    names = [n for n in CLASSES if n != "ShapleyValues" or count <= 5]
    if case is not QUICK["shared groups"]:
        return names
    # Captum shuffles a group of several inputs by another order in each of them. Before 0.9 it switches such a group
    # off in one input after the other. See the tests below.
    apart = {"FeaturePermutation"} | ({"FeatureAblation"} if captum_version < Version("0.9") else set())
    return [n for n in names if n not in apart]


@pytest.mark.parametrize("case", [*QUICK, *(pytest.param(name, marks=pytest.mark.nightly) for name in MORE)])
def test_every_class_gives_what_captum_gives(case):
    problem = {**QUICK, **MORE}[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = [difference(name, case, problem) for name in classes_for(problem)]
    assert not list(filter(None, wrong)), "\n".join(filter(None, wrong))


OPTIONS = [
    ("image", "IntegratedGradients", {"multiply_by_inputs": False}),
    ("image", "LayerDeepLift", {"multiply_by_inputs": False}),
    ("image", "NeuronConductance", {"multiply_by_inputs": False}),
    *(("image", name, {"attribute_to_layer_input": True}) for name in
      ("InternalInfluence", "LayerActivation", "LayerConductance", "LayerDeepLift", "LayerDeepLiftShap", "LayerGradCam",
       "LayerFeatureAblation", "LayerGradientShap", "LayerGradientXActivation", "LayerIntegratedGradients",
       "GuidedGradCam")),
    *(("image", name, {"attribute_to_neuron_input": True}) for name in
      ("NeuronConductance", "NeuronDeepLift", "NeuronFeatureAblation", "NeuronGradient", "NeuronIntegratedGradients")),
    *(("two inputs", "NoiseTunnel", {"attribution_method": inner, "attribution_settings": settings, "nt_type": kind})
      for inner, settings, kind in (
        ("IntegratedGradients", {"n_steps": 4}, "smoothgrad"), ("Saliency", {"abs": False}, "vargrad"),
        ("DeepLift", None, "smoothgrad_sq"), ("FeatureAblation", None, "smoothgrad"), ("Occlusion", None, "smoothgrad"),
        ("GradientShap", {"n_samples": 3}, "smoothgrad"), ("GuidedBackprop", None, "smoothgrad_sq"))),
    ("two inputs", "NoiseTunnel", {"attribution_method": "IntegratedGradients", "stdevs": (0.3, 0.7)}),
    ("two inputs", "NoiseTunnel",
     {"attribution_method": "IntegratedGradients", "draw_baseline_from_distrib": True}),
    ("image", "NoiseTunnel", {"attribution_method": "LayerGradCam"}),
    ("image", "NoiseTunnel",
     {"attribution_method": "NeuronGradient", "attribution_settings": {"neuron_selector": (1, 2, 2)}}),
    *(("two inputs", name, {"method": method}) for name in ("IntegratedGradients", "LayerConductance")
      for method in ("riemann_left", "riemann_trapezoid")),
    ("two inputs", "GradientShap", {"baselines": (randn(5, 4, seed=8), randn(5, 3, seed=7)), "stdevs": 0.3}),
    ("two inputs", "DeepLiftShap", {"baselines": (randn(5, 4, seed=8), randn(5, 3, seed=7))}),
    *(("image", name, {"baselines": randn(5, 2, 4, 4, seed=8)}) for name in
      ("DeepLiftShap", "LayerDeepLiftShap", "NeuronDeepLiftShap", "LayerGradientShap", "NeuronGradientShap")),
    ("image", "LayerGradCam", {"relu_attributions": True}),
    ("image", "GuidedGradCam", {"interpolate_mode": "bilinear"}),
    ("image", "Saliency", {"abs": False}),
    *(("two inputs", name, {"neuron_selector": lambda h: h[:, 1]}) for name in CLASSES if name.startswith("Neuron")),
    *(("image", name, {"neuron_selector": (slice(0, 2), 1, slice(0, 3))})
      for name in ("NeuronGradient", "NeuronConductance")),
]  # fmt: skip


def test_captums_settings_reach_captum():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = [difference(name, case, QUICK[case], **options) for case, name, options in OPTIONS]
    assert not list(filter(None, wrong)), "\n".join(filter(None, wrong))


@pytest.mark.filterwarnings("ignore:Setting:UserWarning")
def test_at_an_activation_deep_lift_of_a_neuron_uses_that_activations_rule():
    case = dataclasses.replace(QUICK["image"], layer="act")
    for name in ("NeuronDeepLift", "NeuronDeepLiftShap", "LayerDeepLift"):
        assert difference(name, "image", case) is None


def test_a_group_of_two_inputs_is_switched_off_as_one():
    """Against a plain loop over the groups."""
    case = QUICK["shared groups"]
    model, (a, b), group = case.model(for_captum=False), case.inputs, case.groups
    explainer = CaptumExplainer(
        "FeatureAblation",
        feature_mask=group,
        forward_arg_extractor=lambda i: i[:2],
        additional_forward_arg_extractor=lambda i: i[2:],
    )
    values = explainer.bind(model).attribute((a, b, *case.extras), case.target)

    def score(a, b):
        return model(a, b, *case.extras).gather(1, case.target[:, None])

    expected = [torch.zeros_like(a), torch.zeros_like(b)]
    for g in range(4):
        lost = score(a, b) - score(a * (group[0] != g), b * (group[1] != g))
        expected = [e + lost * (ids == g) for e, ids in zip(expected, group, strict=True)]
    for value, truth in zip(values, expected, strict=True):
        assert torch.allclose(value.double(), truth, atol=1e-6)


def test_a_group_of_two_inputs_is_shuffled_as_one():
    """A group that stands in two inputs takes both parts from the same other sample, which captum's does not."""

    class Product(nn.Module):
        def forward(self, a, b):
            return (a[:, :1] * b[:, :1]).sum(1)

    a = torch.tensor([[1.0], [2.0], [4.0]])
    groups = (torch.tensor([0]), torch.tensor([0]))
    first, second = CaptumExplainer("FeaturePermutation", feature_mask=groups).bind(Product()).attribute((a, a))
    assert torch.equal(first, second)
    lost = a[:, 0] ** 2 - first[:, 0]
    assert sorted(lost.tolist()) == [1, 4, 16]  # squares of some sample each, never a product of two samples
    assert not torch.equal(lost, a[:, 0] ** 2)


def test_what_has_one_sentence():
    image = QUICK["image"].model(for_captum=False)
    with pytest.raises(InvalidInputError, match="attr_dim_summation must be False"):
        CaptumExplainer("LayerGradCam", attr_dim_summation=True)
    named = CaptumExplainer("LayerGradCam", layer="second.input").bind(image).attribute(*QUICK["image"].inputs, 1)
    asked = CaptumExplainer("LayerGradCam", layer="second", attribute_to_layer_input=True)
    assert torch.equal(named, asked.bind(image).attribute(*QUICK["image"].inputs, 1))


def test_deep_lift_of_a_softmax_does_not_depend_on_the_other_samples():
    """Captum's rule for softmax subtracts one mean over the whole batch, so each sample runs by itself."""
    model = nn.Sequential(nn.Linear(6, 4), nn.Softmax(1), nn.Linear(4, 3)).double()
    x = torch.randn(3, 6, dtype=torch.float64)
    explainer = CaptumExplainer("DeepLift").bind(model)
    with pytest.warns(UserWarning, match="misses the explained score"):  # as captum's own sums do
        together = explainer.attribute(x, 0)
    for row in range(3):
        with pytest.warns(UserWarning, match="misses the explained score"):
            alone = explainer.attribute(x[row : row + 1], 0)
        assert torch.allclose(together[row : row + 1], alone, atol=1e-12)


@pytest.mark.parametrize("name", ["DeepLift", "DeepLiftShap"])
@pytest.mark.parametrize("form", ["function", "script"])
def test_deep_lift_tells_in_attribute_that_it_misses_its_sum(name, form):
    class Functional(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.first, self.last = net[0], net[2]

        def forward(self, x):
            return self.last(torch.relu(self.first(x)))

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 3))
    x = 3 * torch.randn(3, 4)
    model = Functional(net) if form == "function" else torch.jit.script(net)
    background = {"baselines": torch.zeros(2, 4)} if name == "DeepLiftShap" else {}
    exact = CaptumExplainer(name, **background).bind(net).attribute(x, 0)
    with pytest.warns(UserWarning, match=f"captum's {name} misses the explained score by .*use deep_lift"):
        values = CaptumExplainer(name, **background).bind(model).attribute(x, 0)
    assert (values - exact).abs().max() > 0.1


@pytest.mark.parametrize("algorithm", ["FeaturePermutation", "LayerFeaturePermutation"])
def test_one_sample_has_none_to_take_a_feature_from(algorithm):
    layer = "0" if algorithm.startswith("Layer") else None
    explainer = CaptumExplainer(algorithm, layer=layer).bind(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(InvalidInputError, match="needs at least two, got one"):
        explainer.attribute(torch.rand(1, 3), 1)

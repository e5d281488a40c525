"""The captum bridge against captum itself, closed forms, finite differences, and at its edges."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS
from xaikit.core.errors import (
    InvalidInputError,
    InvalidTypeError,
    NotDifferentiableError,
    UnknownNameError,
    UnsupportedOperationError,
)
from xaikit.explainers import CaptumExplainer, IntegratedGradients
from xaikit.explainers.feature_groups import default_groups, windows

captum_attr = pytest.importorskip("captum.attr")

NAMES = [name for name in EXPLAINERS if name.startswith("captum.")]
RANDOM = {"gradient_shap", "kernel_shap", "lime", "noise_tunnel", "shapley_value_sampling"}
UNBOUNDED = {"captum.gradient_shap"}  # captum stacks its rows without a setting that bounds them


def few(name: str, **settings):
    """An explainer that draws fewer samples than by default, where how many it draws changes no answer."""
    drawn = {"n_samples": 60} if name in ("captum.kernel_shap", "captum.lime") else {}
    return EXPLAINERS.create(name, **drawn, **settings)


def image_net():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(16, 10),
        nn.Tanh(),
        nn.Linear(10, 5),
    ).double()


def table_net():
    return nn.Sequential(nn.Linear(7, 9), nn.ReLU(), nn.Linear(9, 6), nn.Tanh(), nn.Linear(6, 5)).double()


@pytest.fixture(params=["image", "table"])
def case(request):
    if request.param == "image":
        return image_net(), torch.rand(3, 2, 6, 6).double(), torch.tensor([0, 4, 2])
    return table_net(), torch.randn(3, 7).double(), torch.tensor([0, 4, 2])


# ---------------------------------------------------------------- against captum


def direct(name, model, x, target, groups):
    """Captum called by hand, one sample at a time where it draws random numbers."""
    cls = {
        "captum.deep_lift": "DeepLift",
        "captum.deep_lift_shap": "DeepLiftShap",
        "captum.gradient_shap": "GradientShap",
        "captum.input_x_gradient": "InputXGradient",
        "captum.kernel_shap": "KernelShap",
        "captum.shapley_value_sampling": "ShapleyValueSampling",
    }.get(name, "".join(word.title() for word in name.removeprefix("captum.").split("_")))
    zeros, window = torch.zeros_like(x[:1]), tuple(windows((x,), 0.2, 0.5)[0])
    arguments = {
        "captum.deep_lift_shap": {"baselines": torch.cat([zeros, zeros])},
        "captum.gradient_shap": {"baselines": zeros, "n_samples": 20},
        "captum.feature_ablation": {"feature_mask": groups},
        "captum.shapley_value_sampling": {"feature_mask": groups, "n_samples": 10},
        "captum.kernel_shap": {"feature_mask": groups, "n_samples": 200},
        "captum.lime": {"feature_mask": groups, "n_samples": 200},
        "captum.noise_tunnel": {"nt_samples": 10, "stdevs": 0.2},
        "captum.occlusion": {"sliding_window_shapes": window[0], "strides": windows((x,), 0.2, 0.5)[1][0]},
    }.get(name, {})
    parts = []
    for sample, label in zip(x, target.tolist(), strict=True):
        torch.manual_seed(0)
        np.random.seed(0)
        if cls == "NoiseTunnel":
            method = captum_attr.NoiseTunnel(captum_attr.Saliency(model))
        elif cls == "Lime":
            from captum._utils.models.linear_model import SkLearnLasso

            method = captum_attr.Lime(model, SkLearnLasso(alpha=1e-4))
        else:
            method = getattr(captum_attr, cls)(model)
        parts.append(method.attribute(sample[None].clone().requires_grad_(), target=label, **arguments).detach())
    return torch.cat(parts)


@pytest.mark.filterwarnings("ignore:Setting:UserWarning")
@pytest.mark.filterwarnings("ignore:Input Tensor:UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_values_are_captums(name, case):
    model, x, target = case
    found = EXPLAINERS.create(name).bind(model).attribute(x, target)
    assert found.shape == x.shape
    assert found.abs().max() > 0
    expected = direct(name, model, x, target, default_groups(x, 64).contiguous())
    # Captum's perturbation methods answer in float32.
    assert torch.allclose(found, expected.double(), atol=1e-9 if expected.dtype == x.dtype else 1e-6)


@pytest.mark.parametrize(
    "name",
    ["captum.deep_lift", "captum.deep_lift_shap", "captum.integrated_gradients", "captum.feature_ablation"]
    + ["captum.input_x_gradient", "captum.shapley_value_sampling", "captum.kernel_shap", "captum.gradient_shap"],
)
def test_closed_form_of_a_linear_model(name):
    """From zero, every one of these gives w * x."""
    model, x = nn.Linear(6, 3).double(), torch.randn(4, 6).double()
    found = EXPLAINERS.create(name).bind(model).attribute(x, 1)
    assert torch.allclose(found, model.weight[1].detach() * x, atol=1e-5)


@pytest.mark.parametrize("name", ["captum.integrated_gradients", "captum.deep_lift", "captum.deep_lift_shap"])
def test_completeness_is_reported(name):
    model, x = table_net(), torch.randn(3, 7).double()
    found = EXPLAINERS.create(name, baseline=0.2).bind(model).explain(x, 1)
    expected = model(x)[:, 1] - model(torch.full_like(x, 0.2))[:, 1]
    assert torch.allclose(found.values.sum(1), expected.detach(), atol=2e-2)
    assert torch.allclose(found.gap, (found.values.sum(1) - expected).abs().detach())
    assert EXPLAINERS.create("captum.saliency").bind(model).explain(x, 1).gap is None


# ---------------------------------------------------------------- no derivative


def raw_penalty(name, model, x):
    torch.manual_seed(0)
    np.random.seed(0)
    explainer = EXPLAINERS.create(name).bind(model)
    kwargs = explainer._options(None) if name != "captum.occlusion" else {"sliding_window_shapes": (2,)}
    kwargs = {k: v for k, v in kwargs.items() if v is not None}
    if name == "captum.noise_tunnel":
        method = captum_attr.NoiseTunnel(captum_attr.Saliency(model))
        kwargs.pop("attribution_method")
    else:
        method = getattr(captum_attr, explainer.ALGORITHM)(
            model, **({"eps": kwargs.pop("eps")} if "eps" in kwargs else {})
        )
    kwargs.pop("interpretable_model", None)
    if name in ("captum.gradient_shap", "captum.deep_lift_shap"):
        kwargs["baselines"] = torch.zeros_like(x).repeat(2, 1)
    return method.attribute(x, target=1, **kwargs).square().sum()


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", NAMES)
def test_captums_parameter_gradient_is_none_or_wrong(name):
    """The measurement behind DIFFERENTIABLE = False: against finite differences in float64."""
    model, x = table_net(), torch.randn(1, 7).double().requires_grad_()
    parameters = list(model.parameters())
    penalty = raw_penalty(name, model, x)
    grads = torch.autograd.grad(penalty, parameters, allow_unused=True) if penalty.requires_grad else [None]
    if any(g is not None for g in grads):
        directions = [torch.randn_like(p) for p in parameters]
        slopes = []
        for step in (1e-6, -2e-6):
            torch._foreach_add_([p.data for p in parameters], directions, alpha=step)
            slopes.append(raw_penalty(name, model, x).item())
        true = (slopes[0] - slopes[1]) / 2e-6
        claimed = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True) if g is not None)
        assert abs(claimed - true) > 1e-2 * abs(true), "captum gives an exact derivative here: say so in DIFFERENTIABLE"
    with pytest.raises(NotDifferentiableError, match="these can: .*gradient"):
        EXPLAINERS.create(name).bind(model).attribute(x, 1, create_graph=True)


# ---------------------------------------------------------------- one call


@pytest.mark.parametrize("name", NAMES)
def test_sample_alone_equals_sample_in_a_batch(name, case):
    model, x, target = case
    explainer = few(name).bind(model)
    whole = explainer.attribute(x, target, seed=3)
    assert torch.equal(whole, explainer.attribute(x, target, seed=3))
    alone = torch.cat([explainer.attribute(x[i : i + 1], int(target[i]), seed=3) for i in range(3)])
    assert torch.allclose(whole, alone, atol=1e-12)
    # Lime and KernelShap fit all groups at once: see that the seed matters where there is chance.
    if name.removeprefix("captum.") in RANDOM:
        assert not torch.equal(whole, explainer.attribute(x, target, seed=4))


@pytest.mark.parametrize("name", NAMES)
def test_every_form_of_target(name, case):
    model, x, target = case
    explainer = few(name).bind(model)
    expected = explainer.attribute(x, target)
    # This function holds values per sample: it may only be called on the batch as it is.
    by_function = explainer.attribute(x, lambda out: out.gather(1, target[:, None])[:, 0])
    assert torch.allclose(by_function, expected, atol=1e-12)
    assert torch.allclose(explainer.attribute(x, target.tolist()), expected, atol=1e-12)
    single = nn.Sequential(model, nn.Linear(5, 1).double())
    assert explainer.bind(single).attribute(x).shape == x.shape


@pytest.mark.parametrize("name", [n for n in NAMES if n not in UNBOUNDED])
def test_passes_are_bounded(name):
    rows = []

    class Counting(nn.Sequential):
        def forward(self, x):
            rows.append(len(x))
            return super().forward(x)

    model = Counting(*table_net())
    x = torch.randn(9, 7).double()
    explainer = few(name, max_rows=5).bind(model)
    found = explainer.attribute(x, 1)
    assert max(rows) <= 5
    if name != "captum.noise_tunnel":  # whose draws captum makes pass by pass
        assert torch.allclose(found, explainer.set_kwargs(max_rows=None).attribute(x, 1), atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_model_and_random_states_stay_as_they_were(name):
    model, x = image_net().train(), torch.rand(2, 2, 6, 6).double()
    before = [(set(vars(m)), len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    torch_state, numpy_state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    few(name, layer="1").bind(model).attribute(x, 1)
    assert before == [(set(vars(m)), len(m._forward_hooks), len(m._backward_hooks)) for m in model.modules()]
    assert torch.equal(torch_state, torch.random.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_layer_equals_the_rest_of_the_model(name):
    model, x = image_net(), torch.rand(2, 2, 6, 6).double()
    hidden = model[:2](x).detach()
    found = few(name, layer="1").bind(model).attribute(x, 1)
    expected = few(name).bind(model[2:]).attribute(hidden, 1)
    assert torch.allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_several_inputs(name):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.act, self.out = nn.Linear(4, 5), nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)

        def forward(self, a, b, scale):
            return self.out(self.act(self.a(a) + self.b(b))) * scale[:, None]

    model, a, b = Two().double(), torch.randn(3, 4).double(), torch.randn(3, 3).double()
    scale = torch.tensor([1.0, 2.0, 3.0]).double()
    explainer = few(name, forward_arg_extractor=lambda i: i[:2], additional_forward_arg_extractor=lambda i: i[2]).bind(
        model
    )
    pair = explainer.attribute((a, b, scale), 1)
    assert [t.shape for t in pair] == [a.shape, b.shape]
    named = few(name, additional_forward_arg_extractor=lambda _: {"scale": scale}).bind(model)
    by_name = named.attribute({"b": b, "a": a}, 1)
    assert set(by_name) == {"a", "b"}
    if name.removeprefix("captum.") not in RANDOM:
        assert torch.allclose(by_name["a"], pair[0])
        assert torch.allclose(by_name["b"], pair[1])
    # Each sample meets its own scale.
    last = explainer.attribute((a[2:], b[2:], scale[2:]), 1)
    assert torch.allclose(last[0], pair[0][2:])


# ---------------------------------------------------------------- a value


@pytest.mark.parametrize("name", NAMES)
def test_tunables_are_alive_and_specs_go_round(name, case):
    model, x, target = case[0], case[1][:1], case[2][:1]
    explainer = EXPLAINERS.create(name).bind(model)
    for setting, spec in explainer.get_tunables().items():
        ends = spec.choices[:2] if hasattr(spec, "choices") else (spec.low, spec.high)
        low, high = (explainer.set_kwargs(**{setting: int(e) if spec.kind == "int" else e}) for e in ends)
        assert not torch.equal(low.attribute(x, target), high.attribute(x, target)), setting
    assert EXPLAINERS.create(explainer.spec(), layer=None).bind(model) == explainer
    assert pickle.loads(pickle.dumps(explainer.set_kwargs(model=None))) == explainer.set_kwargs(model=None)


def test_any_class_by_its_name():
    model, x = table_net(), torch.randn(3, 7).double()
    explainer = CaptumExplainer("DeepLift", eps=1e-6).bind(model)
    assert torch.equal(
        explainer.attribute(x, 1), EXPLAINERS.create("captum.deep_lift:eps=1e-6").bind(model).attribute(x, 1)
    )
    assert set(explainer.get_tunables()) == {"eps"}
    assert explainer.set_kwargs(eps=1e-3).eps == 1e-3
    assert explainer.set_kwargs(algorithm="DeepLift") == explainer
    again = EXPLAINERS.create(explainer.spec()).bind(model)
    assert again == explainer
    assert pickle.loads(pickle.dumps(again.set_kwargs(model=None))).settings() == explainer.settings()
    assert set(CaptumExplainer("Lime").get_tunables()) == {"n_samples"}
    assert CaptumExplainer("IntegratedGradients", method="riemann_trapezoid").method == "riemann_trapezoid"
    assert EXPLAINERS.create("captum:algorithm=Saliency,abs=False").abs is False


GENERIC = sorted(
    name
    for name, cls in vars(captum_attr).items()
    if isinstance(cls, type)
    and hasattr(cls, "attribute")
    and not name.startswith(("LLM", "RemoteLLM", "DataLoader", "LimeBase", "LRP", "LayerLRP", "ShapleyValues"))
)


@pytest.mark.parametrize("algorithm", GENERIC)
def test_every_captum_class_runs(algorithm):
    model, x = image_net(), torch.rand(3, 2, 6, 6).double()
    options = {"layer": "0"} if algorithm.startswith(("Layer", "Neuron", "Internal", "Guided")) else {}
    options |= {"neuron_selector": (0, 1, 1)} if algorithm.startswith("Neuron") else {}
    options.pop("layer") if algorithm == "GuidedBackprop" else None
    found = CaptumExplainer(algorithm, **options).bind(model).attribute(x, torch.tensor([0, 1, 2]))
    assert found.shape == ((3, 4, 6, 6) if algorithm.startswith(("Layer", "Internal")) else x.shape)
    assert torch.isfinite(found).all()
    assert found.abs().max() > 0 or algorithm == "Lime"  # whose L1 penalty in captum is large for a small net


def test_captums_own_layers_equal_the_cut():
    model, x = image_net(), torch.rand(3, 2, 6, 6).double()
    for theirs, ours in (("LayerGradientXActivation", "InputXGradient"), ("LayerFeatureAblation", "FeatureAblation")):
        by_captum = CaptumExplainer(theirs, layer="1").bind(model).attribute(x, 2)
        by_cut = CaptumExplainer(ours, layer="1").bind(model).attribute(x, 2)
        assert torch.allclose(by_captum, by_cut, atol=1e-12)


def test_same_as_our_own_integrated_gradients():
    model, x = image_net(), torch.rand(3, 2, 6, 6).double()
    ours = IntegratedGradients(model, n_steps=30, baseline="mean").attribute(x, 2)
    theirs = EXPLAINERS.create("captum.integrated_gradients", n_steps=30, baseline="mean").bind(model).attribute(x, 2)
    assert torch.allclose(ours, theirs, atol=1e-10)


def test_background_samples():
    model, x, background = table_net(), torch.randn(3, 7).double(), torch.randn(4, 7).double()
    explainer = EXPLAINERS.create("captum.deep_lift_shap", baselines=background).bind(model)
    each = [EXPLAINERS.create("captum.deep_lift", baseline=b).bind(model).attribute(x, 1) for b in background]
    assert torch.allclose(explainer.attribute(x, 1), torch.stack(each).mean(0), atol=1e-10)
    assert explainer.explain(x, 1).gap is None


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: CaptumExplainer("DeepLif"),
            UnknownNameError,
            "no attribution class 'DeepLif'; did you mean 'DeepLift'",
        ),
        (lambda: CaptumExplainer("LLMAttribution"), UnknownNameError, "no attribution class 'LLMAttribution'"),
        (
            lambda: CaptumExplainer("DeepLift", epz=1),
            InvalidTypeError,
            "DeepLift has no argument 'epz'; did you mean 'eps'",
        ),
        (lambda: CaptumExplainer("DeepLift", eps=-1), InvalidInputError, "eps must be > 0"),
        (lambda: CaptumExplainer("Lime", n_samples=0), InvalidInputError, "n_samples must be >= 1"),
        (lambda: CaptumExplainer("Lime", n_samples="a"), InvalidTypeError, "n_samples must be a whole number"),
        (lambda: EXPLAINERS.create("captum.occlude"), UnknownNameError, "did you mean 'captum.occlusion'"),
        (lambda: EXPLAINERS.create("captum.lime", n_sample=3), InvalidTypeError, "did you mean 'n_samples'"),
    ],
)
def test_bad_settings_end_in_a_sentence(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_what_captum_cannot_do_ends_in_a_sentence():
    relu = nn.ReLU()
    reused, x = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2)), torch.randn(2, 4)
    before = [set(vars(m)) for m in reused.modules()]
    with pytest.raises(
        UnsupportedOperationError, match="DeepLift needs every activation to be a module that runs once"
    ):
        CaptumExplainer("DeepLift").bind(reused).attribute(x, 0)
    assert before == [set(vars(m)) for m in reused.modules()]
    with pytest.raises(InvalidInputError, match="LayerGradCam explains at a layer; pass layer="):
        CaptumExplainer("LayerGradCam").bind(reused).attribute(x, 0)
    with pytest.raises(UnsupportedOperationError, match="captum's LRP refuses"):
        CaptumExplainer("LRP").bind(nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2))).attribute(x, 0)


def test_an_error_of_ours_passes_through_captum_as_it_is():
    class Nested(nn.Module):
        def forward(self, x):
            return {"logits": {"inner": x}}

    with pytest.raises(InvalidTypeError, match="head 'logits' of the model's output is a dict"):
        EXPLAINERS.create("captum.occlusion").bind(Nested()).attribute(torch.rand(2, 3), 0)

"""What no explainer can be asked: each registered one refuses in a sentence, unless it needs no gradient for it."""

from __future__ import annotations

import functools
import re

import pytest
import torch
from torch import nn
from torch.ao.quantization import DeQuantStub, QuantStub, convert, get_default_qconfig, prepare, quantize_dynamic

from xaikit import Gradient, Heads, Position
from xaikit.core import EXPLAINERS
from xaikit.core.errors import UnknownNameError, XaikitError

NAMES = [name for name in EXPLAINERS if name != "lrp_composite"]


def small_net():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))


def dynamic():
    return quantize_dynamic(small_net(), {nn.Linear})


def observed():
    """A model whose layers are watched by observers, which note the ranges of values for a later quantisation."""
    model = nn.Sequential(QuantStub(), small_net(), DeQuantStub()).eval()
    model.qconfig = get_default_qconfig("fbgemm")
    prepare(model, inplace=True)
    model(torch.randn(20, 4))
    return model


@functools.cache
def static():
    return convert(observed())


class Complex(nn.Module):
    def forward(self, z):
        return torch.stack([z.real.sum(1), z.imag.sum(1)], 1)


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 5)

    def forward(self, x):
        return self.inner(x)[:, None].expand(-1, 3, -1)


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.idle, self.inner, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.inner(self.inner(x).tanh()).tanh())


class ExplainsItself(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x):
        return self.inner(x * Gradient(self).attribute(x.detach(), 0))


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
# Model, input, target, layer; what the sentence says; whether methods without a gradient answer.
CASES = {
    "quantised dynamically": (dynamic, X, 0, None, "quanti", True),
    "quantised statically": (static, X, 0, None, "quanti", True),
    "complex numbers": (Complex, torch.complex(X, X), 0, None, "complex", True),
    "a position outside": (Tokens, X, Position(7, 1), None, r"position must lie in 0\.\.2", False),
    "a position of classes": (small_net, X, Position(0, 1), None, r"an output of shape \(N, T, V\)", False),
    "a class of tokens": (Tokens, X, 1, None, "pass a target such as Position", False),
    "a layer that does not run": (Layers, X, 0, "idle", "'idle'", False),
    "an explainer inside its model": (ExplainsItself, X, 0, None, "compute the explanation outside", False),
}


def outcome(explainer, x, target):
    """The attribution, or the sentence in which it is refused."""
    try:
        return explainer.attribute(x, target)
    except XaikitError as err:
        return str(err)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch announces that its quantisation moves
@pytest.mark.parametrize("case", CASES)
def test_every_explainer_refuses_in_a_sentence(case):
    make, x, target, layer, words, without_gradient = CASES[case]
    torch.manual_seed(0)
    for name in NAMES:
        explainer = EXPLAINERS.create(name, layer=layer).bind(make())
        if "n_samples" in explainer.SETTINGS:
            explainer = explainer.set_kwargs(n_samples=20)
        answer = outcome(explainer, x, target)
        if isinstance(answer, torch.Tensor):
            assert without_gradient, f"{name} gives values"
            assert not explainer.needs_gradient, f"{name} gives values"
            assert answer.abs().max() > 0, name
        elif "cam" not in name and name != "fullgrad":  # class activation maps want positions first of all
            assert re.search(words, answer), f"{name}: {answer}"


@pytest.mark.filterwarnings("ignore")  # torch announces that its quantisation moves
@pytest.mark.parametrize("name", ["gradient", "contextual_decomposition", "attn_lrp", "captum.feature_ablation"])
def test_observers_change_nothing_and_note_nothing(name):
    torch.manual_seed(0)
    model = observed()
    plain = nn.Sequential(nn.Identity(), small_net(), nn.Identity())
    plain.load_state_dict(model.state_dict(), strict=False)
    before = {key: str(value) for key, value in model.state_dict().items()}
    values, expected = (EXPLAINERS.create(name).bind(net).attribute(10 * X, 1) for net in (model, plain))
    assert torch.allclose(values, expected, rtol=1e-5)
    assert {key: str(value) for key, value in model.state_dict().items()} == before


@pytest.mark.parametrize("name", ["gradient", "contextual_decomposition", "captum.feature_ablation"])
@pytest.mark.parametrize("target", [Heads({"aux": 1}), Heads({1: 0})])
def test_a_head_that_the_model_does_not_have(name, target):
    with pytest.raises(UnknownNameError, match="returns one tensor, and no"):
        EXPLAINERS.create(name).bind(small_net()).attribute(X, target)
    with pytest.raises(UnknownNameError, match="returns one tensor, and no 'aux'"):
        EXPLAINERS.create(name, head="aux").bind(small_net()).attribute(X, 0)
    one, same = (EXPLAINERS.create(name, head=head).bind(nn.Linear(4, 1)) for head in ("logits", 0))
    assert one.attribute(X).shape == same.attribute(X).shape == X.shape


def test_a_users_module_in_a_package_named_quantized_is_no_quantised_model():
    model = small_net()
    model[0].__class__ = type("Linear", (nn.Linear,), {"__module__": "codebooks.quantized.layers"})
    assert Gradient(model).attribute(X, 0).abs().max() > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_that_feeds_itself_has_its_runs_or_is_refused(name):
    torch.manual_seed(0)
    explainer = EXPLAINERS.create(name, layer="inner").bind(Layers())
    if explainer.SINGLE_BACKWARD and "cam" not in name:
        assert explainer.attribute(X, 0).shape == (3, 2, 4)
    else:
        with pytest.raises(XaikitError):
            explainer.attribute(X, 0)

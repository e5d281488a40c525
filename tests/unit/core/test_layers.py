"""What a layer returns as what is explained: one layer, several, layers that feed one another."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.explainers import Gradient, GradientXInput, IntegratedGradients, SmoothGrad


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


@pytest.fixture
def x():
    return torch.randn(5, 4, dtype=torch.float64)


@pytest.fixture
def deep():
    """A net with in-place operations and residual additions, so that one layer feeds the others on two paths."""

    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

        def forward(self, x):
            hidden = self.first(x).tanh_()
            out = self.second(hidden)
            out += hidden
            return self.last(out.sigmoid_())

    return Deep().double()


def test_layer_gradient_against_autograd(net, x):
    hidden = net[0](x).detach().requires_grad_()
    (expected,) = torch.autograd.grad(net[2](hidden.relu())[:, 2].sum(), hidden)
    assert torch.allclose(Gradient(net, layer="0").attribute(x, 2), expected)
    (one,) = Gradient(net, layer=[net[0]]).attribute(x, 2)
    assert torch.allclose(one, expected)


def test_layer_derivative_reaches_the_parameters_before_it():
    net, x = (
        nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)).double(),
        torch.rand(2, 3).double(),
    )
    a = Gradient(net, layer="1").attribute(x, create_graph=True)
    (found,) = torch.autograd.grad(a.square().sum(), net[0].weight)
    step, kept = 1e-6, net[0].weight.detach().clone()
    for i, j in ((0, 0), (3, 2)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                net[0].weight[i, j] = kept[i, j] + sign * step
            values.append(float(Gradient(net, layer="1").attribute(x).square().sum()))
        with torch.no_grad():
            net[0].weight.copy_(kept)
        assert float(found[i, j]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


@pytest.mark.parametrize(
    ("layer", "error", "words"),
    [
        ("3", UnknownNameError, "no layer '3'"),
        (nn.Linear(1, 1), UnknownNameError, "the given Linear layer is no part of this Sequential"),
    ],
)
def test_wrong_layers(net, x, layer, error, words):
    with pytest.raises(error) as caught:
        Gradient(net, layer=layer).attribute(x, 0)
    assert words in str(caught.value)


def test_a_layer_setting_of_a_wrong_type():
    with pytest.raises(InvalidTypeError, match="a layer's name, a module, or a sequence of them, got 3"):
        Gradient(layer=3)


def passes_of(model):
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    return passes


def test_layers_that_feed_one_another_share_one_pass(deep, x):
    Gradient(deep).attribute(x, 1)  # the first call on a model takes a pass to get to know it
    passes, names = passes_of(deep), ["last", "first", "second"]
    last, first, second = Gradient(deep, layer=names).attribute(x, 1)
    assert len(passes) == 1
    for name, together in zip(names, (last, first, second), strict=True):
        assert torch.equal(together, Gradient(deep, layer=name).attribute(x, 1))
    hidden = deep.first(x).detach().requires_grad_()
    inner = deep.second(hidden.tanh()).detach().requires_grad_()
    expected = torch.autograd.grad(deep.last((inner + hidden.tanh().detach()).sigmoid())[:, 1].sum(), inner)[0]
    torch.testing.assert_close(second, expected)
    whole = deep.last((deep.second(hidden.tanh()) + hidden.tanh()).sigmoid())[:, 1].sum()
    torch.testing.assert_close(first, torch.autograd.grad(whole, hidden)[0])
    assert torch.equal(last, torch.eye(3).double()[1].expand(5, 3))
    for name, value in zip(names, GradientXInput(deep, layer=names).explain(x, 1).values, strict=True):
        assert torch.equal(value, GradientXInput(deep, layer=name).attribute(x, 1))


def test_derivative_through_nested_layers(deep, x):
    def penalty(create_graph=False):
        parts = GradientXInput(deep, layer=["second", "first"]).attribute(x, 1, create_graph=create_graph)
        return sum(p.square().sum() + p.sum() for p in parts)

    parameters = list(deep.parameters())
    found = torch.autograd.grad(penalty(True), parameters, allow_unused=True, materialize_grads=True)
    for p, g in zip(parameters, found, strict=True):
        direction, values = torch.randn_like(p), []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(direction, alpha=sign * 1e-6)
            values.append(float(penalty()))
            with torch.no_grad():
                p.sub_(direction, alpha=sign * 1e-6)
        assert float((g * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-9)


def test_the_same_layer_under_two_names(x):
    body = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    model = nn.Sequential(body, nn.Linear(6, 3)).double()
    whole, end = Gradient(model, layer=["0", "0.1"]).attribute(x, 1)
    assert torch.equal(whole, end)
    assert torch.equal(whole, model[1].weight[1].detach().expand(5, 6))


@pytest.mark.parametrize("kind", [IntegratedGradients, SmoothGrad])
def test_methods_with_several_versions_of_the_input_explain_nested_layers_one_by_one(kind, net, x):
    first, last = kind(net, layer=["0", "2"]).attribute(x, 1)
    assert torch.equal(first, kind(net, layer="0").attribute(x, 1))
    assert torch.equal(last, kind(net, layer="2").attribute(x, 1))
    with pytest.raises(InvalidInputError, match="layer '0' feeds layer '2': explain them in separate calls"):
        kind(net, layer=["0", "2"]).explain(x, 1)


@pytest.mark.parametrize("kind", [Gradient, IntegratedGradients])
def test_layers_that_cannot_be_read(kind, x):
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.idle, self.whole, self.one = (nn.Linear(4, 4) for _ in range(4))
            self.count = nn.Identity()
            self.tied = nn.Linear(4, 4)
            self.tied.weight = self.twice.weight
            self.double()

        def forward(self, x):
            self.count(x.argmax(1))
            return self.twice(self.twice(x)) + self.whole(x[:1])

    cases = {
        "twice": (InvalidInputError, "layer 'twice' runs 2 times in a forward pass, and one run feeds another"),
        "idle": (InvalidInputError, "layer 'idle' does not run in the model's forward pass"),
        "tied": (InvalidInputError, "name a layer that runs, such as 'twice', which has the same weights"),
        "whole": (InvalidInputError, r"layer 'whole' must keep the batch of 5 first, it returns \(1, 4\)"),
        "count": (InvalidTypeError, "layer 'count' must return a floating-point tensor"),
    }
    model = Odd()
    if kind is Gradient:  # it reads both runs
        del cases["twice"]
        assert Gradient(model, layer="twice").attribute(x, 0).shape == (5, 2, 4)
    for name, (error, words) in cases.items():
        with pytest.raises(error, match=words):
            kind(model, layer=name).attribute(x, 0)
        assert not any(m._forward_hooks for m in model.modules())


class Beside(nn.Module):
    """A layer that takes and returns nothing, then ids, then vectors."""

    def forward(self, mask=None, ids=None, hidden=None):
        return None, ids, hidden.tanh()


@pytest.mark.parametrize("spec", ["gradient", "smoothgrad", "captum.feature_ablation"])
def test_a_layer_whose_vectors_do_not_come_first(spec):
    torch.manual_seed(0)
    first, beside, last = nn.Linear(3, 4), Beside(), nn.Linear(4, 2)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.beside, self.last = first, beside, last

        def forward(self, x):
            return self.last(self.beside(mask=None, ids=torch.arange(len(x)), hidden=self.first(x))[2])

    x, explainer = torch.randn(5, 3), EXPLAINERS.create(spec)
    tails = {"beside": (first(x).tanh(), last), "beside.input": (first(x), nn.Sequential(nn.Tanh(), last))}
    for layer, (start, rest) in tails.items():
        expected = explainer.bind(rest).attribute(start.detach(), 1)
        torch.testing.assert_close(explainer.set_kwargs(layer=layer).bind(Net()).attribute(x, 1), expected)

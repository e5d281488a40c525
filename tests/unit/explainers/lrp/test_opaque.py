"""Activations that are functions of autograd get the rule of activations; other such functions are named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.explainers import AttnLRP, LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.explainers.lrp.graph import is_activation


class Hidden(torch.autograd.Function):
    """tanh(x) + x / 3, whose backward pass is differentiable."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.tanh(x) + x / 3

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (1 - torch.tanh(x) ** 2 + 1 / 3)


class HiddenSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = x.softmax(-1)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return y * (g - (g * y).sum(-1, keepdim=True))


class Wrapped(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function.apply(x)


def net(activation):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 6, bias=False), activation, nn.Linear(6, 3, bias=False)).double()


X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("explainer", [AttnLRP, LRPUniformEpsilon, LRPEpsilonPlus])
def test_a_hidden_activation_hands_on_all_that_it_gets(explainer):
    """R_in = R_out there: the relevance is that of the two linear layers, by the formula of the rule."""
    model = net(Wrapped(Hidden))
    options = {} if explainer is LRPEpsilonPlus else {"epsilon": 1e-12}
    relevance = explainer(model, **options).attribute(X, 1)
    assert torch.allclose(relevance.sum(1), model(X)[:, 1], rtol=1e-4)
    if explainer is not LRPEpsilonPlus:
        z = X @ model[0].weight.T
        received = (torch.tanh(z) + z / 3) * model[2].weight[1] / z  # R / z of each hidden unit
        assert torch.allclose(relevance, X * (received @ model[0].weight), rtol=1e-8)


def test_its_derivative_is_exact():
    model = net(Wrapped(Hidden))
    explainer = LRPUniformEpsilon(model, epsilon=0.1)
    value = lambda **options: (explainer.attribute(X, 1, **options) ** 2).sum()
    (slope,) = torch.autograd.grad(value(create_graph=True), model[0].weight)
    direction = torch.randn_like(slope)
    ends = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            model[0].weight += step * direction
            ends.append(float(value()))
        model[0].weight += 1e-5 * direction
    assert float((slope * direction).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-6)


def test_what_is_no_activation_is_named():
    with pytest.warns(UserWarning, match="no rule for: HiddenSoftmax, out of sight"):
        LRPUniformEpsilon(net(Wrapped(HiddenSoftmax))).attribute(X, 1)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.GELU(), True),
        (nn.Identity(), True),
        (nn.Softmax(1), False),
        (nn.Flatten(0), False),
        (nn.LayerNorm(5, elementwise_affine=False), False),
        (nn.PReLU().double(), False),  # it has a parameter, and rules of its own
        (nn.Sequential(nn.ReLU()), False),
        (nn.Dropout(0.5), False),
    ],
)
def test_activations_are_told_from_other_modules(module, expected):
    assert is_activation(module, X, module(X)) is expected
    assert not is_activation(module, X[:1, :2], X[:1, :2])  # too few entries to tell

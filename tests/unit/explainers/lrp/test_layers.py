"""Relevance at inner layers: several in one pass, also where one feeds another, each as if it had been named alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.explainers.lrp import AttnLRP, LRPEpsilonPlus, LRPUniformEpsilon, zennit_rules
from xaikit.testing import directional_derivative_error

LAYERS = {
    "mlp": ["0", "1", "2", "4"],
    "residual": ["conv1", "norm1", "conv2", "norm2", "head"],
    "conv1d": ["0", "1", "3", "4", "5", "6"],
    "norm_first": ["0", "1", "2", "3", "4"],
}


@pytest.fixture
def layers(net, request):
    return LAYERS[request.node.callspec.params["net"]]


def count_passes(model):
    passes = []
    model.register_forward_pre_hook(lambda *_: passes.append(1))
    return passes


def test_each_as_if_named_alone(net, layers, variant):
    model, x = net
    variant(model).set_kwargs(layer=layers).attribute(x, 1)  # the first call gets to know the model
    passes = count_passes(model)
    together = variant(model).set_kwargs(layer=layers).attribute(x, 1)
    assert len(passes) == 1
    for name, relevance in zip(layers, together, strict=True):
        alone = variant(model).set_kwargs(layer=name).attribute(x, 1)
        torch.testing.assert_close(relevance, alone, rtol=1e-12, atol=0)
        assert relevance.any()


def test_the_order_of_the_names_does_not_matter(net, layers, variant):
    model, x = net
    forwards = variant(model).set_kwargs(layer=layers).attribute(x, 1)
    backwards = variant(model).set_kwargs(layer=layers[::-1]).attribute(x, 1)
    assert all(torch.equal(a, b) for a, b in zip(forwards, backwards[::-1], strict=True))


def test_derivative(net, layers, variant):
    """Of a penalty on all the layers at once."""
    model, x = net
    explainer = variant(model).set_kwargs(layer=layers)
    assert directional_derivative_error(explainer, x, torch.tensor([0, 1, 2]), parts=1) < 1e-5


@pytest.mark.parametrize("kind", [LRPUniformEpsilon, LRPEpsilonPlus, AttnLRP])
@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_equals_the_rest_of_the_model_explained_by_itself(kind, at):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(36, 3)
    ).double().eval()  # fmt: skip
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    expected = kind(model[at + 1 :]).attribute(model[: at + 1](x).detach(), 1)
    torch.testing.assert_close(kind(model, layer=str(at)).attribute(x, 1), expected, rtol=1e-10, atol=1e-14)


def test_equals_the_relevance_that_zennit_hands_through(variant):
    zennit_rules.zennit()
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 3)
    ).double()  # fmt: skip
    x, targets, names = torch.randn(3, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2]), ["1", "2", "4"]
    explainer, outputs = variant(model).set_kwargs(layer=names), {}
    with explainer._make_composite().context(model):
        for name in names:
            model[int(name)].register_forward_hook(lambda _m, _i, out, name=name: outputs.update({name: out}))
        output = model(x.clone().requires_grad_())
        seed = torch.zeros_like(output).scatter_(1, targets[:, None], 1.0) * output.detach()
        theirs = torch.autograd.grad(output, [outputs[name] for name in names], seed)
    for ours, expected in zip(explainer.attribute(x, targets), theirs, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


class Attention(nn.Module):
    """Tokens or vectors in; the values are weighted by what depends on the input, too."""

    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(9, 6), nn.Embedding(5, 6)
        self.query, self.value, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        if not x.is_floating_point():
            x = self.embed(x) + self.place(torch.arange(x.shape[1]))
        weights = (self.query(x) @ x.transpose(1, 2)).softmax(-1)
        return self.head((x + weights @ self.value(x)).mean(1))


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("kind", [LRPUniformEpsilon, AttnLRP])
def test_a_branch_has_what_flows_through_it(kind, tokens):
    """The values take half of the relevance in AttnLRP, whatever else is explained beside them."""
    model = Attention().double()
    x = torch.randint(9, (2, 5)) if tokens else torch.randn(2, 5, 6, dtype=torch.float64)
    names = ["embed", "value", "query"] if tokens else ["value", "query"]
    together = kind(model, layer=names).attribute(x, 1)
    for name, relevance in zip(names, together, strict=True):
        torch.testing.assert_close(kind(model, layer=name).attribute(x, 1), relevance, rtol=1e-12, atol=0)
    values = model.embed(x) + model.place(torch.arange(5)) if tokens else x
    weights = (model.query(values) @ values.transpose(1, 2)).softmax(-1)
    with torch.no_grad():
        pooled = (values + weights @ model.value(values)).mean(1)
        z = model.head(pooled)[:, 1]
        g = model.head.weight[1] * (z / (z + (0.25 if kind is LRPUniformEpsilon else 1e-6) * z.sign()))[:, None] / 5
        mixed = values + weights @ model.value(values)
        g = g[:, None] * mixed.abs() / (mixed.abs() + 1e-6)  # the sum's stabilizer
        expected = model.value(values) * (weights.transpose(1, 2) @ g) * (0.5 if kind is AttnLRP else 1)
    torch.testing.assert_close(together[names.index("value")], expected, rtol=1e-9, atol=1e-12)


def test_a_mask_beside_tokens_is_a_constant():
    class Masked(Attention):
        def forward(self, x, mask):
            return self.head((self.embed(x) * mask[..., None]).mean(1))

    model, ids = Masked().double(), torch.randint(9, (2, 5))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.float64)
    explained = LRPUniformEpsilon(model, epsilon=1e-9, stabilizer=1e-12, layer="embed").explain((ids, mask), 1)
    bias = model.head.bias[1].detach()
    torch.testing.assert_close(explained.values.sum((1, 2)), explained.scores - bias, rtol=1e-6, atol=1e-8)
    assert not explained.values[0, 3:].any()


def test_explain_compares_each_nested_layer_with_the_score():
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 6, bias=False), nn.Linear(6, 2)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    explainer = LRPUniformEpsilon(model, epsilon=1e-9, stabilizer=1e-12, layer=["0", "2"])
    explainer.attribute(x, 1)  # the first call gets to know the model
    passes = count_passes(model)
    explained = explainer.explain(x, 1)
    assert len(passes) == 1
    alone = [explainer.set_kwargs(layer=name).explain(x, 1) for name in ("0", "2")]
    assert all(torch.equal(a.values, v) for a, v in zip(alone, explained.values, strict=True))
    assert torch.equal(explained.gap, torch.stack([a.gap for a in alone]).amax(0))
    bias = model[3].bias[1].detach()
    torch.testing.assert_close(explained.gap, bias.abs().expand(3), rtol=1e-6, atol=1e-9)
    assert explained.absorbed == pytest.approx(float(3 * bias), rel=1e-6)
    assert explained.lost == {}


def test_explain_adds_up_layers_side_by_side():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right, self.head = (nn.Linear(4, 4, bias=False) for _ in range(3))

        def forward(self, x):
            return self.head(F.relu(self.left(x)) * torch.tanh(self.right(x)))

    model, x = Branches().double(), torch.randn(3, 4, dtype=torch.float64)
    both = LRPUniformEpsilon(model, epsilon=1e-9, stabilizer=1e-12, layer=["left", "right"]).explain(x, 1)
    assert (both.gap < 1e-6).all()
    one = LRPUniformEpsilon(model, epsilon=1e-9, stabilizer=1e-12, layer="left").explain(x, 1)
    torch.testing.assert_close(one.values, both.values[0], rtol=1e-12, atol=0)
    assert one.lost == {}  # the other half flows past this layer, it is not lost


def test_layers_that_cannot_be_explained():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.idle = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(self.layer(x))

    with pytest.raises(InvalidInputError, match="layer 'idle' does not run in the model's forward pass"):
        LRPEpsilonPlus(Twice(), layer="idle").attribute(torch.randn(2, 3), 0)


def test_a_layer_that_runs_twice_has_the_relevance_of_each_run():
    class Run(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            self.first, self.second = first, second

        def forward(self, x):
            return self.second(torch.relu(self.first(x)))

    one, other = nn.Linear(3, 3), nn.Linear(3, 3)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 3)
    runs = LRPEpsilonPlus(Run(one, one), layer="first").attribute(x, 0)
    apart = LRPEpsilonPlus(Run(one, other), layer=["first", "second"]).attribute(x, 0)
    torch.testing.assert_close(runs, torch.stack(apart, 1))

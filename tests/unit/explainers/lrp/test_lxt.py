"""AttnLRP against LXT, its authors' own implementation: each rule on the same tensors, and a whole transformer."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit.explainers.lrp import AttnLRP

lxt = pytest.importorskip("lxt.explicit.functional", reason="LXT is not installed (pip install lxt)")
TINY = 1e-14  # LXT adds its stabilizer whatever the sign, so both are made too small to matter


class Function(nn.Module):
    def __init__(self, function, weights):
        super().__init__()
        self.function, self.weights = function, weights

    def forward(self, *inputs):
        return (self.function(*inputs) * self.weights).flatten(1).sum(1, keepdim=True)


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64)


def assert_same(ours, theirs, *inputs):
    """The same relevance of a weighted sum of what the two functions return."""
    output = ours(*inputs)
    weights = draw(*output.shape[1:])
    given = inputs if len(inputs) > 1 else inputs[0]
    found = AttnLRP(Function(ours, weights), epsilon=TINY, stabilizer=TINY).attribute(given, 0)
    leaves = [x.clone().requires_grad_() for x in inputs]
    result = theirs(*leaves)
    torch.testing.assert_close(result, output, rtol=1e-6, atol=1e-6)  # LXT's RMSNorm computes in float32
    expected = torch.autograd.grad(result, leaves, (output * weights).detach())  # relevance, not a gradient
    for one, other in zip(found if isinstance(found, tuple) else (found,), expected, strict=True):
        assert (one - other).abs().max() < 1e-6 * other.abs().max()


def test_softmax():
    assert_same(lambda x: x.softmax(-1), lambda x: lxt.softmax(x, -1), draw(3, 4, 5))


def test_matmul():
    assert_same(lambda a, v: a @ v, lambda a, v: lxt.matmul(a, v, epsilon=TINY), draw(3, 4, 5), draw(3, 5, 2))


def test_product():
    assert_same(lambda a, b: a * b, lxt.mul2, draw(3, 4), draw(3, 4))


def test_sum():
    assert_same(lambda a, b: a + b, lambda a, b: lxt.add2(a, b, epsilon=TINY), draw(3, 4), draw(3, 4))


def test_mean():
    assert_same(lambda x: x.mean(-1), lambda x: lxt.mean(x, -1, False, epsilon=TINY), draw(3, 4, 5))


def test_linear():
    w, b = draw(5, 4), draw(5)
    assert_same(lambda x: F.linear(x, w, b), lambda x: lxt.linear_epsilon(x, w, b, epsilon=TINY), draw(3, 4))


def layer_norm(x, w, b):
    """LXT's with a stabilizer that does not matter, which `lxt.layer_norm` does not take."""
    return lxt.layer_norm_grad_fn.apply(x, w, b, 1e-5, TINY)


def test_layer_norm():
    w, b = torch.rand(6).double() + 0.5, draw(6)
    assert_same(lambda x: F.layer_norm(x, (6,), w, b), lambda x: layer_norm(x, w, b), draw(3, 4, 6))


def test_rms_norm():
    w = torch.rand(6).double() + 0.5
    assert_same(lambda x: F.rms_norm(x, (6,), w, 1e-5), lambda x: lxt.rms_norm_identity(x, w, 1e-5), draw(3, 4, 6))


def test_normalize():
    assert_same(lambda x: F.normalize(x, dim=-1), lambda x: lxt.normalize(x, dim=-1), draw(3, 4, 6))


def test_activation():
    rules = pytest.importorskip("lxt.explicit.rules")
    assert_same(F.gelu, lambda x: rules.identity(F.gelu, x), draw(3, 4))


class Transformer(nn.Module):
    """Two blocks, pre-norm, with a gated MLP; the operations are given, torch's or LXT's."""

    def __init__(self):
        super().__init__()
        shapes = {"q": 8, "k": 8, "v": 8, "out": 8, "gate": 12, "up": 12}
        self.blocks = nn.ModuleList(
            nn.ModuleDict({n: nn.Linear(8, width) for n, width in shapes.items()} | {"down": nn.Linear(12, 8)})
            for _ in range(2)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in range(5))
        self.head = nn.Linear(8, 3)
        for norm in self.norms:
            nn.init.uniform_(norm.weight, 0.5, 1.5)

    def run(self, x, op):
        for i, block in enumerate(self.blocks):
            h = op.norm(x, self.norms[2 * i])
            heads = [op.linear(h, block[n]).unflatten(-1, (2, 4)).transpose(1, 2) for n in "qkv"]
            scores = op.scale(op.matmul(heads[0], heads[1].transpose(-2, -1)), 1 / math.sqrt(4))
            mixed = op.matmul(op.softmax(scores), heads[2]).transpose(1, 2).flatten(2)
            x = op.add(x, op.linear(mixed, block["out"]))
            h = op.norm(x, self.norms[2 * i + 1])
            x = op.add(
                x, op.linear(op.mul(op.silu(op.linear(h, block["gate"])), op.linear(h, block["up"])), block["down"])
            )
        return op.linear(op.norm(x, self.norms[4])[:, 0], self.head)

    def forward(self, x):
        return self.run(x, Torch)


class Torch:
    norm = staticmethod(lambda x, norm: norm(x))
    linear = staticmethod(lambda x, layer: layer(x))
    matmul, mul, add, scale = torch.matmul, torch.mul, torch.add, torch.mul
    silu = F.silu
    softmax = staticmethod(lambda x: x.softmax(-1))


class Lxt:
    norm = staticmethod(lambda x, norm: layer_norm(x, norm.weight, norm.bias))
    linear = staticmethod(lambda x, layer: lxt.linear_epsilon(x, layer.weight, layer.bias, epsilon=TINY))
    matmul = staticmethod(lambda a, b: lxt.matmul(a, b, epsilon=TINY))
    add = staticmethod(lambda a, b: lxt.add2(a, b, epsilon=TINY))
    mul, scale = lxt.mul2, lxt.mul2
    softmax = staticmethod(lambda x: lxt.softmax(x, -1))

    @staticmethod
    def silu(x):
        rules = pytest.importorskip("lxt.explicit.rules")
        return rules.identity(F.silu, x)


def test_a_whole_transformer():
    model, x = Transformer().double().eval(), draw(3, 5, 8)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    output = model.run(leaf, Lxt)
    torch.testing.assert_close(output, model(x), rtol=1e-12, atol=1e-12)
    seed = torch.zeros_like(output)
    seed[:, 1] = output[:, 1].detach()
    (theirs,) = torch.autograd.grad(output, leaf, seed)
    ours = AttnLRP(model, epsilon=TINY, stabilizer=TINY).attribute(x, 1)
    assert (ours - theirs).abs().max() < 1e-6 * theirs.abs().max()

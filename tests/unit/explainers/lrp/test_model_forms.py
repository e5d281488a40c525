"""Models in other forms: tensors of the user's own class, hooks on saved tensors, torch.export, vmap."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit.explainers.lrp import AttnLRP, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.explainers.lrp.trace import saved_tensors_are_hooked
from xaikit.testing import directional_derivative_error

VARIANTS = (LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonGammaBox, LRPEpsilonAlpha2Beta1, AttnLRP)


class Marked(torch.Tensor):
    """A tensor of the user's own class."""


class Inside(nn.Module):
    def __init__(self, marked):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.marked = nn.Linear(4, 6), nn.Linear(6, 3), marked

    def forward(self, x):
        h = self.first(x)
        return self.head(torch.relu(h.as_subclass(Marked) if self.marked else h))


@pytest.mark.parametrize("method", ["attribute", "explain"])
def test_subclasses_of_tensors(method):
    x = torch.randn(2, 4)
    truth = LRPEpsilonPlus(Inside(False)).attribute(x, 0)
    for net, value in ((Inside(False), x.as_subclass(Marked)), (Inside(True), x)):
        result = getattr(LRPEpsilonPlus(net), method)(value, 0)
        values = result.values if method == "explain" else result
        torch.testing.assert_close(values.as_subclass(torch.Tensor), truth)


def test_hooks_on_saved_tensors_are_seen():
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x)
    assert not saved_tensors_are_hooked()
    with hooks:
        assert saved_tensors_are_hooked()
        assert (torch.ones(2, requires_grad=True) ** 2).sum().requires_grad  # the hooks go on
    with torch.autograd.graph.disable_saved_tensors_hooks("not here"):
        assert not saved_tensors_are_hooked()
        with pytest.raises(RuntimeError, match="not here"), hooks:
            pass
    with hooks:  # allowed again
        assert saved_tensors_are_hooked()


def convolutional():
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.GELU(),
        nn.InstanceNorm2d(4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3),
    ).eval()  # fmt: skip
    nn.init.normal_(net[1].running_mean)
    return net, torch.rand(2, 1, 8, 8)


def transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
    return nn.Sequential(encoder, nn.Flatten(), nn.Linear(40, 3)).eval(), torch.randn(2, 5, 8)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("build", [convolutional, transformer])
def test_exported_programs(build, decomposed):
    torch.manual_seed(0)
    torch.compiler.reset()  # older torch counts how often a forward pass has been traced in this process
    net, x = build()
    program = torch.export.export(net, (x,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own code
        exported = (program.run_decompositions() if decomposed else program).module()
    for variant in VARIANTS:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="LRP has no rule")
            truth = variant(net).attribute(x, 1)
            torch.testing.assert_close(variant(exported).attribute(x, 1), truth, rtol=1e-3, atol=1e-5)


class Mapped(nn.Module):
    """A part that sees one example, under torch.vmap or in a loop."""

    def __init__(self, part, mapped):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.conv, self.norm = nn.Linear(4, 6), nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2)
        self.query, self.head, self.part, self.mapped = nn.Linear(6, 8), nn.Linear(8, 3), part, mapped
        nn.init.normal_(self.norm.running_mean)
        self.double().eval()

    def example(self, v):
        if self.part == "convolution":
            return torch.relu(self.norm(self.conv(v[None, None]))).flatten()
        if self.part == "gate":
            return torch.tanh(self.query(v)) * torch.sigmoid(F.pad(v, (0, 2)))
        tokens = v.view(3, 2)
        return F.pad(F.scaled_dot_product_attention(tokens, tokens, tokens).flatten(), (0, 2))

    def forward(self, x):
        h = self.first(x)
        return self.head(torch.vmap(self.example)(h) if self.mapped else torch.stack([self.example(v) for v in h]))


@pytest.mark.parametrize("part", ["convolution", "gate", "attention"])
def test_models_under_vmap(part):
    x = torch.randn(3, 4, dtype=torch.float64)
    mapped, looped = Mapped(part, True), Mapped(part, False)
    for variant in (LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, AttnLRP):
        explained, truth = variant(mapped).explain(x, 1), variant(looped).attribute(x, 1)
        torch.testing.assert_close(explained.values, truth)
        torch.testing.assert_close(variant(mapped).attribute(x, 1), truth)
    assert directional_derivative_error(LRPEpsilonPlus(mapped, epsilon=1e-2), x, torch.tensor([0, 1, 2])) < 1e-5

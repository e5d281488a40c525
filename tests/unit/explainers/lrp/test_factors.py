"""Several targets share the factors of their backward passes: each is what a call of its own gives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit import AttnLRP
from xaikit.explainers import LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.explainers.lrp import conditional_relevance


class Steps(nn.Module):
    """Steps in a row, results that several steps use, and writes into them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.act, self.out = nn.SiLU(), nn.Linear(6, 3)
        self.weight = nn.Parameter(torch.rand(6))

    def forward(self, x):
        gate, up = self.act(self.a(x)), self.b(x)
        h = gate * up + gate
        h = self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-3))
        k = self.c(h)
        k.add_(h * h).mul_(torch.sigmoid(h))
        twice = torch.tanh(torch.tanh(k))
        k[:, 0] = 0.5
        wide = twice.unsqueeze(1) * F.gelu(k).unsqueeze(2)
        return self.out(twice + k + wide.mean(1))


@pytest.mark.parametrize("cls", [AttnLRP, LRPUniformEpsilon, LRPEpsilonPlus])
def test_several_targets_equal_one_each(cls):
    torch.manual_seed(0)
    explainer, x = cls(Steps().double()), torch.randn(4, 6, dtype=torch.float64)
    together = explainer.attribute(x, [lambda y, k=k: y[:, k] for k in range(3)])
    for values, target in zip(together, range(3), strict=True):
        assert values.allclose(explainer.attribute(x, target), rtol=1e-10, atol=1e-14)


def test_steps_in_a_row_end_at_a_layer_with_conditions():
    torch.manual_seed(0)
    model, x = Steps().double(), torch.randn(4, 6, dtype=torch.float64)
    explainer = AttnLRP(model)
    for layer in ("act", "a"):  # what is passed by is what flows through `b` alone
        parts = conditional_relevance(explainer, x, 0, conditions=[{layer: k} for k in range(6)])
        whole = conditional_relevance(explainer, x, 0, conditions={layer: list(range(6))})
        single = [conditional_relevance(explainer, x, 0, conditions={layer: k}) for k in range(6)]
        assert parts.sum(0).allclose(whole, rtol=1e-9)
        assert parts.allclose(torch.stack(single), rtol=1e-10)
        relevance = AttnLRP(model, layer=layer).attribute(x, 0).sum(1)  # biases absorb a part on the way to x
        assert not whole.sum(1).allclose(explainer.attribute(x, 0).sum(1))
        assert (relevance != 0).all()

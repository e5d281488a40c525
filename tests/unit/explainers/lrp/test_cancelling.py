"""Branches that cancel to exactly 0, to which an activation gives relevance: the same with and without a graph."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit import EXPLAINERS
from xaikit.testing import derivative_error


class LessItsPositivePart(nn.Module):
    def __init__(self, part, activation):
        super().__init__()
        torch.manual_seed(0)
        self.front, self.out, self.part, self.activation = nn.Linear(4, 5), nn.Linear(5, 2), part, activation

    def forward(self, x):
        z = self.front(x)
        return self.out(self.activation(z - self.part(z)))


@pytest.mark.parametrize("activation", [torch.sigmoid, F.softplus, F.hardsigmoid])
@pytest.mark.parametrize("part", [torch.relu, lambda z: z.clamp(min=0), F.relu6, F.elu, lambda z: F.threshold(z, 0, 0)])
def test_the_relevance_of_an_exact_0(part, activation):
    model = LessItsPositivePart(part, activation).double()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    explainer = EXPLAINERS.create("lrp_uniform_epsilon").bind(model)
    plain, with_graph = (explainer.attribute(x, 1, create_graph=graph).detach() for graph in (False, True))
    torch.testing.assert_close(with_graph, plain, rtol=1e-9, atol=1e-12)
    assert plain.abs().max() < 1
    assert derivative_error(explainer, x, 1) < 1e-5

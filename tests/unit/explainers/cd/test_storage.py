"""How parts are stored and when a bias is shared changes no result: float32 images against the same net in float64."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.explainers import ContextualDecomposition


class Pools(nn.Module):
    """Convolutions behind max-pools, norms and views, some of them looked at before they are pooled."""

    def __init__(self):
        super().__init__()
        self.enter, self.norm = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.depthwise, self.point, self.wide = nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 40, 1), nn.Conv2d(40, 48, 3)
        self.head = nn.Linear(48, 3)

    def forward(self, x):
        first = self.enter(x)
        with torch.no_grad():
            bright = first.amax() > 0  # the bias is shared here, and keeps its gradient
        pooled = F.max_pool2d(first, 3, 2, padding=1) + self.enter(x).mean((1, 2, 3), keepdim=True) * bright
        hidden = F.relu(self.norm(pooled), inplace=True)
        hidden = F.max_pool2d(self.depthwise(hidden), 2)
        hidden = torch.relu_(torch.cat([self.point(hidden), self.point(hidden).flip(1)], 0)[: len(x)])
        hidden = self.wide(F.pad(hidden, (1, 1, 1, 1)))
        flat = hidden.view(len(x), 48, -1)
        flat += 0.1
        return self.head(hidden.flatten(2).amax(-1) + flat.mean(-1))


def net():
    torch.manual_seed(0)
    model = Pools().eval()
    model.norm.running_mean.normal_()
    return model


MASKS = (torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(2)) < 0.4).float()


@pytest.mark.parametrize("masks", [MASKS, MASKS.view(3, 1, 1, 16, 16) * torch.tensor([1.0, 0, 1]).view(1, 3, 1, 1, 1)])
@pytest.mark.parametrize("rules", ["symmetric", "cdep"])
def test_values_and_gradients(rules, masks):
    found = []
    for dtype in (torch.float32, torch.float64):
        model = net().to(dtype)
        x = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
        explainer = ContextualDecomposition(model, rules=rules, floor=0.2)
        result = explainer.decompose(x, masks.to(dtype), create_graph=True)
        (result.relevant.square().sum() + result.irrelevant.sum()).backward()
        plain = explainer.decompose(x, masks.to(dtype))
        assert torch.allclose(plain.relevant, result.relevant, atol=1e-5)
        assert torch.allclose(plain.total, model(x).expand_as(plain.total), atol=1e-5)
        found.append((result.relevant.double(), {n: p.grad.double() for n, p in model.named_parameters()}))
    (ours, gradients), (exact, expected) = found
    assert torch.allclose(ours, exact, atol=1e-4)
    for name, gradient in gradients.items():
        assert (gradient - expected[name]).norm() < 1e-3 * expected[name].norm() + 1e-5


def test_what_a_search_may_vary():
    assert {"rules", "floor", "feature_mask"} <= set(ContextualDecomposition.TUNABLES)

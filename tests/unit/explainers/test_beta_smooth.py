"""BetaSmooth: zennit's composite on modules, the formula on functions, the plain gradient at a large beta."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError
from xaikit.explainers import BetaSmooth, Gradient
from xaikit.explainers.lrp import LRP, zennit_rules
from xaikit.mitigation import RRR
from xaikit.testing.mitigators import penalty_derivative_error


def convolutional():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)]
    return nn.Sequential(*layers).double().eval(), torch.randn(3, 2, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("beta", [0.5, 10.0])
def test_equals_zennit(beta):
    model, x = convolutional()
    model[2].inplace = False  # in place, zennit reads the ReLU's output in place of its input
    v, targets = x.clone().requires_grad_(), torch.tensor([0, 2, 1])
    with zennit_rules.zennit().composites.BetaSmooth(beta_smooth=beta).context(model) as modified:
        seed = F.one_hot(targets, 3).double()
        (theirs,) = torch.autograd.grad(modified(v), v, seed)
    ours = BetaSmooth(model, beta=beta).attribute(x, targets)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(ours, Gradient(model).attribute(x, targets), rtol=1e-3)


class Functions(nn.Module):
    def __init__(self, relu):
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(4, 6), nn.Linear(6, 2), relu

    def forward(self, x):
        return self.second(self.relu(self.first(x)))


ATEN = torch.ops.aten  # an exported program calls these


@pytest.mark.parametrize(
    "relu",
    [
        F.relu, torch.relu, torch.relu_, lambda z: z.clamp(min=0), lambda z: z.clamp_(min=0),
        ATEN.relu.default, ATEN.relu_.default, lambda z: ATEN.clamp.default(z, 0),
    ],
    ids=range(8),
)  # fmt: skip
def test_functions_follow_the_formula(relu):
    torch.manual_seed(0)
    model, x = Functions(relu).double(), torch.randn(5, 4, dtype=torch.float64)
    slope = torch.sigmoid(3.0 * model.first(x))
    expected = (slope * model.second.weight[1]) @ model.first.weight
    torch.testing.assert_close(BetaSmooth(model, beta=3.0).attribute(x, 1), expected.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(BetaSmooth(model, beta=1e9).attribute(x, 1), Gradient(model).attribute(x, 1))
    hidden = BetaSmooth(model, beta=3.0, layer="first").attribute(x, 1)
    torch.testing.assert_close(hidden, (slope * model.second.weight[1]).detach())


def test_a_loss_on_it_has_its_own_derivative_and_that_of_the_task():
    model, x = convolutional()
    y, mask = torch.tensor([0, 2, 1]), torch.ones(8, 8).double().tril()
    mitigator = RRR(explainer="beta_smooth:beta=2", output="logit")
    assert penalty_derivative_error(mitigator, model, (x, y, mask), steps=(1e-6, 1e-7)) < 1e-6
    parameters = list(model.parameters())
    task = torch.autograd.grad(mitigator.loss(model, (x, y, mask)).task, parameters)
    plain = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(task, plain, strict=True))


def test_several_targets_are_each_its_own():
    model, x = convolutional()
    targets = [lambda output: output[:, 0], lambda output: output[:, 2]]
    both = BetaSmooth(model).attribute(x, targets)
    for i, target in enumerate(targets):
        torch.testing.assert_close(both[i], BetaSmooth(model).attribute(x, target))


def test_the_composite_of_lrp_says_its_name():
    model, x = convolutional()
    with pytest.raises(InvalidInputError, match="are no LRP; those of zennit are beta_smooth"):
        LRP(model, composite="beta_smooth").attribute(x, 0)
    with pytest.raises(InvalidInputError, match="BetaSmooth.beta must be > 0, got -1"):
        BetaSmooth(beta=-1)

"""The derivative of a penalty on the relevance is exact, for every parameter."""

from __future__ import annotations

import torch

from xaikit.explainers.lrp import LRPUniformEpsilon
from xaikit.testing import directional_derivative_error


def test_parameters(net, variant):
    model, x = net
    assert directional_derivative_error(variant(model), x, torch.tensor([0, 1, 2])) < 1e-5


def test_inputs(residual, variant):
    model, x = residual
    explainer = variant(model)
    x = x[:1].requires_grad_()
    weights = torch.randn_like(x)
    (gradient,) = torch.autograd.grad((weights * explainer.attribute(x, 0, create_graph=True)).sum(), x)
    direction = torch.randn_like(x)
    step = 1e-6
    ahead, behind = (explainer.attribute(x.detach() + s * direction, 0) for s in (step, -step))
    numeric = (weights * (ahead - behind)).sum() / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), numeric.detach(), rtol=1e-5, atol=0)


def test_every_parameter_is_reached(residual, variant):
    model, x = residual
    penalty = variant(model).attribute(x, 0, create_graph=True).square().sum()
    grads = torch.autograd.grad(penalty, list(model.parameters()))
    assert all(g.isfinite().all() for g in grads)
    assert sum(bool(g.any()) for g in grads) >= len(grads) - 1


def test_training_lowers_the_penalty(residual):
    model, x = residual
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    values = []
    for _ in range(10):
        penalty = LRPUniformEpsilon(model).attribute(x, 0, create_graph=True).square().sum()
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        values.append(float(penalty.detach()))
    assert values[-1] < values[0] / 2

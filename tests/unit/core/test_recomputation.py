"""Passes that are run again in a loss's backward pass, on models that write in place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit import IntegratedGradients, SmoothGrad, VarGrad
from xaikit.core.errors import NotDifferentiableError
from xaikit.explainers import ExactShapley
from xaikit.explainers.interactions import integrated_hessians

X, Y = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double(), torch.tensor([0, 2, 1])
SEVERAL_PASSES = [
    IntegratedGradients(n_steps=5, max_rows=6),
    SmoothGrad(n_iter=6, max_rows=6),
    VarGrad(n_iter=6, max_rows=6),
    ExactShapley(max_rows=6),
]


class Writing(nn.Module):
    def __init__(self, write):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)
        self.write = write
        self.double()

    def forward(self, x):
        return self.write(self.first(x), x, self.second)


def into_what_tanh_needs(h, _x, second):
    h = h.tanh()
    h += 0.3 * h.roll(1, 1)
    return second(h * h)


def into_what_a_weight_needs(h, _x, second):
    h = h.clone()
    out = second(h)
    h += 1
    return (out * out).tanh()


def as_residual_blocks_do(h, x, second):
    h = F.relu(h, inplace=True)
    h = h * 1.5
    h += x
    return second(F.silu(h))


def without_a_write(h, x, second):
    return second(F.silu(F.relu(h) * 1.5 + x))


@pytest.mark.parametrize("explainer", SEVERAL_PASSES, ids=lambda e: e.NAME)
@pytest.mark.parametrize("write", [into_what_tanh_needs, into_what_a_weight_needs])
def test_a_write_that_spoils_a_derivative_is_refused(explainer, write):
    """torch's checkpoint would take what stands there after the write, and the attribution was wrong by a third."""
    with pytest.raises(NotDifferentiableError, match="it writes in place into"):
        explainer.bind(Writing(write)).attribute(X, Y, create_graph=True)


def test_integrated_hessians_refuse_it_as_well():
    with pytest.raises(NotDifferentiableError, match="it writes in place into the output of Tanh"):
        integrated_hessians(IntegratedGradients(Writing(into_what_tanh_needs), n_steps=40), X, Y, progress=False)


@pytest.mark.parametrize("explainer", SEVERAL_PASSES, ids=lambda e: e.NAME)
def test_other_writes_change_nothing(explainer):
    results = []
    for write in (as_residual_blocks_do, without_a_write):
        model = Writing(write)
        values = explainer.bind(model).attribute(X, Y, create_graph=True)
        penalty = values.square().sum()
        results.append((values, *torch.autograd.grad(penalty, model.parameters(), materialize_grads=True)))
    for inside, outside in zip(*results, strict=True):
        assert torch.allclose(inside, outside, rtol=0, atol=1e-12)


def test_what_a_model_draws_is_the_same_in_every_call():
    model = Writing(lambda h, _x, second: second(F.dropout(h.tanh(), 0.5, training=True)))
    explainer = IntegratedGradients(model, n_steps=5, max_rows=6)
    with torch.random.fork_rng(), pytest.warns(UserWarning, match="rows of this Writing are not independent"):
        first, again = (explainer.attribute(X, Y, create_graph=True) for _ in range(2))
    assert torch.equal(first, again)

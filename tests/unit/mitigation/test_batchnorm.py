"""BatchNorm in training mode: the penalty's derivative is exact, and the running statistics move as in a plain step."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from xaikit.core.errors import XaikitError
from xaikit.mitigation import CDEP, HINT, RRR, AttributionPrior, Counterexamples

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(6, 1, 8, 8, generator=GENERATOR, dtype=torch.float64)
Y = torch.tensor([0, 1, 2] * 2)
MASK = torch.zeros(8, 8, dtype=torch.float64)
MASK[:3, :3] = 1


def net():
    torch.manual_seed(0)
    head = nn.Flatten(), nn.Linear(36, 8), nn.BatchNorm1d(8), nn.Softplus(), nn.Linear(8, 3)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.AvgPool2d(2), *head).double()
    with torch.no_grad():
        model(X)  # statistics that are no longer 0 and 1
    return model


MITIGATORS = [
    RRR(),
    RRR(mode="train"),
    RRR(explainer="integrated_gradients:n_steps=3", output="logit"),
    RRR(explainer="lrp_uniform_epsilon:epsilon=0.1", target="random"),
    HINT(),
    AttributionPrior(),
    CDEP(),
    Counterexamples(),
]


@pytest.mark.parametrize("mitigator", MITIGATORS, ids=repr)
def test_the_penaltys_derivative_is_exact(mitigator):
    model = net()

    def penalty(of):
        return mitigator.loss(copy.deepcopy(of), (X, Y, MASK), seed=1).penalty

    own = copy.deepcopy(model)
    mitigator.loss(own, (X, Y, MASK), seed=1).penalty.backward()
    direction = [torch.randn(p.shape, dtype=p.dtype) for p in model.parameters()]
    pairs = zip(own.parameters(), direction, strict=True)
    exact = sum((p.grad * d).sum().item() for p, d in pairs if p.grad is not None)

    def moved(step):
        there = copy.deepcopy(model)
        with torch.no_grad():
            for p, d in zip(there.parameters(), direction, strict=True):
                p.add_(step * d)
        return penalty(there).item()

    step = 1e-6
    assert exact == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=2e-5)


@pytest.mark.parametrize("weight", [None, 0])
@pytest.mark.parametrize("mitigator", [m for m in MITIGATORS if not isinstance(m, Counterexamples)], ids=repr)
def test_the_statistics_move_as_in_a_plain_step(mitigator, weight):
    plain, trained = net(), net()
    buffers = list(trained.buffers())
    plain(X)
    mitigator.loss(trained, (X, Y, MASK), seed=1, weight=weight).total.backward()
    assert all(a is b for a, b in zip(trained.buffers(), buffers, strict=True))
    for a, b in zip(plain.buffers(), trained.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_an_error_leaves_the_statistics_as_they_were():
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(XaikitError, match="must be smaller than|outside|0..2"):
        RRR().loss(model, (X, Y + 1, MASK))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


WATCHED: list[tuple[nn.Module, list[torch.Tensor]]] = []


class Signal(nn.Module):
    """Whenever a pass comes by, another thread looks at the running statistics of the user's own model."""

    def forward(self, x):
        for norm, means in WATCHED:
            thread = threading.Thread(target=lambda: means.append(norm.running_mean.clone()))  # noqa: B023
            thread.start()
            thread.join()
        return x


@pytest.mark.parametrize("weight", [None, 0])
@pytest.mark.parametrize("mitigator", [RRR(), HINT(), CDEP()], ids=repr)
def test_another_thread_never_sees_the_earlier_statistics_that_a_penalty_starts_from(mitigator, weight):
    model = nn.Sequential(net(), Signal())
    norm, means = model[0][1], []
    mitigator.loss(model, (X, Y, MASK), seed=1, weight=weight)  # what is asked at the first call is known now
    before = norm.running_mean.clone()
    WATCHED.append((norm, means))
    try:
        mitigator.loss(model, (X, Y, MASK), seed=1, weight=weight).total.backward()
    finally:
        WATCHED.clear()
    assert len(means) >= 2
    assert not torch.equal(before, norm.running_mean)
    assert all(torch.equal(mean, norm.running_mean) for mean in means)

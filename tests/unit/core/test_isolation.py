"""Models that other threads use during an explanation, and models that torch.compile has wrapped."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS
from xaikit.explainers import GradCam, Gradient, IntegratedGradients, LRPEpsilonPlus, SmoothGrad
from xaikit.mitigation import RRR


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval()


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("name", ["gradient", "lrp_epsilon_plus", "contextual_decomposition"])
def test_compiled_models_run_as_they_were_written(net, name):
    compiled, x = torch.compile(net, backend="aot_eager"), torch.rand(5, 4)
    compiled(x)
    compiled(x.clone().requires_grad_())
    expected = EXPLAINERS.create(name).bind(net).attribute(x, 1)
    assert torch.equal(EXPLAINERS.create(name).bind(compiled).attribute(x, 1), expected)
    losses = [RRR(explainer=name).loss(model, (x, torch.arange(5) % 3, torch.eye(4)[0])) for model in (net, compiled)]
    found = [torch.autograd.grad(loss.total, list(net.parameters())) for loss in losses]
    assert all(torch.allclose(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("name", ["integrated_gradients", "contextual_decomposition"])
def test_a_compiled_step_may_hold_an_explanation_and_a_penalty(net, name):
    x, y, mask = torch.rand(3, 4), torch.arange(3), torch.eye(4)[0].expand(3, 4)
    explainer, rrr = EXPLAINERS.create(name).bind(net), RRR(explainer=name, output="logit")

    def step(x):
        loss = rrr.loss(net, (x, y, mask), seed=0).total
        return explainer.attribute(x, 1) * 2, loss, torch.autograd.grad(loss, net[0].weight)[0]

    for ours, expected in zip(torch.compile(step, backend="eager")(x), step(x), strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "lrp_epsilon_plus", "contextual_decomposition"])
@pytest.mark.parametrize("late", [False, True])
def test_compiled_functions_of_a_model_run_as_they_were_written(name, late):
    class Compiles(nn.Module):
        """Compiles a part of itself that is no module: when it is made, or in its first pass."""

        def __init__(self, compiles: bool):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.last, self.compiles = nn.Linear(4, 6), nn.Linear(6, 3), compiles
            self.fast = None if late else self.compiled()

        def compiled(self):
            return torch.compile(self.part, backend="aot_eager") if self.compiles else self.part

        def part(self, x):
            return self.last(self.first(x).tanh())

        def forward(self, x):
            self.fast = self.fast or self.compiled()
            return self.fast(x)

    x, results = torch.rand(5, 4), []
    for model in (Compiles(False), Compiles(True)):
        values = EXPLAINERS.create(name).bind(model).attribute(x, 1)
        loss = RRR(explainer=name).loss(model, (x, torch.arange(5) % 3, torch.eye(4)[0]))
        results.append([values, *torch.autograd.grad(loss.total, list(model.parameters()))])
    assert all(torch.allclose(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("kind", [Gradient, IntegratedGradients, SmoothGrad, GradCam, LRPEpsilonPlus])
def test_another_thread_runs_the_same_model_meanwhile(kind):
    """It runs in the middle of the explained pass, with all hooks in place."""

    class Pausing(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(1, 2, 3), nn.Linear(32, 3)

        def forward(self, x):
            hidden = self.first(x).relu()
            if threading.current_thread() is threading.main_thread():
                other = threading.Thread(target=lambda: seen.append(self(elsewhere)))
                other.start()
                other.join()
            return self.last(hidden.flatten(1))

    seen, model = [], Pausing().eval()
    x, elsewhere = torch.rand(2, 1, 6, 6), torch.rand(3, 1, 6, 6)
    expected = model.last(model.first(elsewhere).relu().flatten(1))
    layer = {"target_layer": "first"} if kind is GradCam else {"layer": "first"}
    found = kind(model, **layer).attribute(x, 1)
    assert seen
    assert all(torch.equal(output, expected) for output in seen)
    assert found.isfinite().all()

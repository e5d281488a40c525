"""Every pass starts from the state that the model has; what a pass writes reaches neither it nor its objects."""

from __future__ import annotations

import collections
import sys

import pytest
import torch
from torch import nn

from xaikit import EXPLAINERS
from xaikit.core.model_state import own_state_kept

SPECS = (
    "gradient",
    "smoothgrad:n_iter=3",
    "integrated_gradients:n_steps=3",
    "lrp_epsilon_plus",
    "contextual_decomposition",
)


class Cache:
    """An object that is no module, as caches of keys and values are."""

    def __init__(self):
        self.items, self.latest, self.count = [], None, 0

    def add(self, x):
        self.items.append(x)
        self.latest = x.mean(0)
        self.count += 1


class Writes(nn.Module):
    """A net beside which something is written."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))

    def forward(self, x):
        return self.net(x)


class WithCache(Writes):
    def __init__(self):
        super().__init__()
        self.cache = Cache()

    def forward(self, x):
        self.cache.add(x.detach())
        return super().forward(x)

    def state(self):
        return len(self.cache.items), self.cache.count, self.cache.latest is None


class Counted(Writes):
    def __init__(self):
        super().__init__()
        self.counter = collections.Counter()

    def forward(self, x):
        self.counter["passes"] += 1
        return super().forward(x)

    def state(self):
        return dict(self.counter)


class Slotted(Writes):
    __slots__ = ("passes",)

    def __init__(self):
        super().__init__()
        self.passes = 0

    def forward(self, x):
        self.passes += 1
        return super().forward(x)

    def state(self):
        return self.passes


class LessItsMean(Writes):
    """What it returns depends on a buffer that it moves."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.full((5,), 0.1))

    def forward(self, x):
        hidden = self.net[1](self.net[0](x))
        out = self.net[2]((hidden - self.mean).square())
        self.mean.mul_(0.5).add_(hidden.detach().mean(0))
        return out

    def state(self):
        return self.mean.tolist()


class FirstPassDiffers(Writes):
    """Its first pass fills a cache, and every later one reads it."""

    def __init__(self):
        super().__init__()
        self.cache = Cache()

    def forward(self, x):
        factor = 1.0 if self.cache.latest is None else 3.0
        self.cache.latest = x.detach()
        return factor * super().forward(x)

    def state(self):
        return self.cache.latest is None


class WritesWeights(Writes):
    """It changes a weight of its own before each use: kept within a ball, above 0, or moved."""

    def step(self, weight):
        raise NotImplementedError

    def forward(self, x):
        self.step(self.net[0].weight)
        return super().forward(x)

    def state(self):
        return self.net[0].weight.tolist()


class InABall(WritesWeights):
    def step(self, weight):
        weight.data = torch.renorm(weight.data, 2, 0, 0.3)


class Positive(WritesWeights):
    def step(self, weight):
        with torch.no_grad():
            weight.clamp_(min=0)


class Moved(WritesWeights):
    def step(self, weight):
        weight.data += 0.5


class CompiledPart(Writes):
    def __init__(self):
        super().__init__()
        self.fast = torch.compile(self.part, backend="eager")

    def part(self, x):
        return self.net(x)

    def forward(self, x):
        return self.fast(x)

    def state(self):
        return None


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
@pytest.mark.parametrize(
    "kind",
    [WithCache, Counted, Slotted, LessItsMean, FirstPassDiffers, InABall, Positive, Moved, CompiledPart],
)
@pytest.mark.parametrize("spec", SPECS)
def test_a_model_that_writes(kind, spec):
    net, x = kind().double().eval(), torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before = net.state()
    make = EXPLAINERS.create(spec).bind
    first, second = (make(net).attribute(x, 1) for _ in range(2))
    assert net.state() == before
    assert torch.allclose(first, second, rtol=1e-12)
    if spec == "gradient":
        leaf = x.clone().requires_grad_()
        (expected,) = torch.autograd.grad(kind().double().eval()(leaf)[:, 1].sum(), leaf)
        assert torch.allclose(first, expected, rtol=1e-12)


@pytest.mark.parametrize("spec", [*SPECS, "deep_lift"])
def test_a_buffer_gets_no_graph_from_what_is_written_into_it(spec):
    """As an observer of a later quantisation writes, in a model that cannot be copied."""

    class Observed(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.largest = nn.Linear(4, 3), None
            self.register_buffer("seen", torch.zeros(1))
            net = self.net
            self.call = lambda x: net(x) + 0

        def forward(self, x):
            self.seen.copy_(x.abs().amax().detach().reshape(1))
            return self.call(x)

    model = Observed()
    EXPLAINERS.create(spec).bind(model).attribute(torch.randn(2, 4), 1)
    assert not model.seen.requires_grad
    assert torch.equal(model.seen, torch.zeros(1))


def test_the_children_of_a_module_are_never_missing_for_another_thread():
    """Who lists them while what a pass wrote is put back must find them: only what has changed is emptied."""
    model = nn.Sequential(nn.Linear(2, 2))
    model.log = [1]
    emptied = []

    def watch(_frame, event, function):
        if event == "c_call" and function.__name__ == "clear":
            emptied.append(function.__self__)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        with own_state_kept([model]):
            model.log.append(2)
    finally:
        sys.setprofile(before)
    assert [item is model.log for item in emptied] == [True]
    assert model.log == [1]

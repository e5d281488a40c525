"""What an explanation leaves of a model, also when the model writes into itself, is explained by two threads, or hides
its modules from a copy."""

from __future__ import annotations

import functools
import sys
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from xaikit import RRR, Gradient
from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError, NotDifferentiableError, UnreachableError
from xaikit.core.model_state import modules_of, profile_of
from xaikit.core.replica import NotReplicableError, Replica

SPECS = ("gradient", "smoothgrad:n_iter=3", "integrated_gradients:n_steps=3", "lrp_epsilon_plus",
         "contextual_decomposition", "captum.occlusion:window=0.5", "captum.deep_lift")  # fmt: skip


class Writes(nn.Module):
    """Writes into buffers and attributes, in place and by assignment."""

    def __init__(self):
        super().__init__()
        self.a, self.relu, self.b = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.seen, self.table, self.plain = [], {}, torch.zeros(3)

    def forward(self, x):
        self.calls += 1
        self.plain.add_(1)
        self.seen.append(len(x))
        self.table[len(self.table)] = 1
        self.last = self.relu(self.a(x))
        return self.b(self.last)


def closure_over_modules():
    net = Writes()
    inner = net.forward
    net.forward = lambda x: inner(x) * 1.0
    return net


def hook_over_modules():
    net = Writes()
    net.relu.register_forward_hook(lambda _m, _i, out: setattr(net, "kept", out))
    return net


def modules_in_a_list():
    net = Writes()
    net.order = [net.a, net.relu, net.b]
    net.run = functools.partial(lambda modules, x: [x := m(x) for m in modules][-1], net.order)
    return net


@pytest.mark.parametrize("make", [Writes, closure_over_modules, hook_over_modules, modules_in_a_list])
@pytest.mark.parametrize("spec", SPECS)
def test_the_state_is_as_found(make, spec):
    torch.manual_seed(0)
    net, x = make().double().train(), torch.randn(3, 4).double()
    net(x)
    attributes = [{k: v for k, v in vars(m).items() if not k.startswith("_")} for m in net.modules()]
    contents = (list(net.seen), dict(net.table), net.plain.clone(), net.calls.clone(), net.last.detach().clone())
    values = EXPLAINERS.create(spec).bind(net).attribute(x, 0)
    for m, before in zip(net.modules(), attributes, strict=True):
        after = {k: v for k, v in vars(m).items() if not k.startswith("_")}
        assert after.keys() == before.keys()
        assert all(after[k] is before[k] for k in before if k != "training")
        assert m.training
    assert (net.seen, net.table) == contents[:2]
    for now, before in zip((net.plain, net.calls, net.last), contents[2:], strict=True):
        assert torch.equal(now, before)
    reference = nn.Sequential(net.a, net.relu, net.b)
    expected = EXPLAINERS.create(spec).bind(reference).attribute(x, 0)
    assert torch.allclose(values, expected, rtol=1e-6, atol=1e-9)


def test_what_a_copy_cannot_redirect_runs_itself():
    for make, replicable in ((Writes, True), (closure_over_modules, False), (hook_over_modules, False)):
        net = make()
        Gradient(net).attribute(torch.rand(2, 4), 0)
        assert profile_of(net)[1].replicable is replicable
    with pytest.raises(NotReplicableError):
        Replica(modules_of(closure_over_modules()), training=False, freeze=True)


def test_a_global_name_of_a_module_is_found_by_the_first_pass():
    inner = nn.Linear(4, 2)
    holder = {"net": inner}

    class Reaches(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return holder["net"](x)

    net = Reaches()
    assert torch.equal(Gradient(net, layer="inner").attribute(torch.rand(2, 4), 0), torch.tensor([[1.0, 0.0]] * 2))
    assert profile_of(net)[1].replicable is False


def test_an_explainer_inside_its_own_model_is_refused():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            Gradient(self).attribute(x.detach(), 0)
            return self.linear(x)

    with pytest.raises(InvalidInputError, match="calls an explainer on it again"):
        Gradient(Inside()).attribute(torch.rand(2, 3), 0)


@pytest.mark.parametrize("pair", [("gradient", "captum.guided_backprop"), ("lrp_epsilon_plus", "captum.deep_lift"),
                                  ("captum.kernel_shap:n_samples=60", "captum.lime:n_samples=60"),
                                  ("vargrad", "penalty")])  # fmt: skip
def test_two_threads_on_one_model(pair):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).train()
    x, y = torch.randn(3, 1, 6, 6), torch.tensor([0, 1, 2])

    def work(spec):
        if spec == "penalty":
            net.zero_grad(set_to_none=True)
            RRR(mode="eval").loss(net.eval(), (x, y, torch.ones(6, 6)), seed=0).total.backward()
            return torch.cat([p.grad.flatten() for p in net.parameters()])
        return EXPLAINERS.create(spec).bind(net).attribute(x, y)

    truths = [work(spec) for spec in pair]
    wrong, stop, interval = [], threading.Event(), sys.getswitchinterval()

    def loop():
        while not stop.is_set():
            if not torch.allclose(work(pair[1]), truths[1], rtol=1e-4, atol=1e-6):
                wrong.append(pair[1])

    sys.setswitchinterval(1e-4)
    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        for _ in range(15):
            if not torch.allclose(work(pair[0]), truths[0], rtol=1e-4, atol=1e-6):
                wrong.append(pair[0])
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not wrong


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        torch.manual_seed(0)
        self.reentrant = reentrant
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Tanh())
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        h = self.body(x) if self.reentrant is None else checkpoint(self.body, x, use_reentrant=self.reentrant)
        return self.head(h.flatten(1))


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("spec", [*SPECS, "gradcam"])
def test_checkpoints_change_nothing(reentrant, spec):
    x = torch.rand(3, 1, 6, 6)
    for layer in (None, "body.0") if "gradcam" not in spec else (None,):
        make = EXPLAINERS.create(spec).set_kwargs(layer=layer)
        found, expected = (make.bind(Checkpointed(r)).attribute(x, 1) for r in (reentrant, None))
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_penalty_on_a_checkpointed_model(reentrant):
    gradients = []
    for kind in (reentrant, None):
        net = Checkpointed(kind)
        RRR().loss(net, (torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 0]),
                         torch.ones(6, 6))).total.backward()  # fmt: skip
        gradients.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_outside_an_explanation_a_checkpoint_still_saves_nothing():
    net, runs = Checkpointed(False), []
    net.body[0].register_forward_hook(lambda *_: runs.append(1))
    net(torch.rand(2, 1, 6, 6, requires_grad=True)).sum().backward()
    assert len(runs) == 2


def test_what_has_no_second_derivative_is_refused_by_name():
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, g):
            return 3 * ctx.saved_tensors[0] ** 2 * g

    class Net(nn.Linear):
        def forward(self, x):
            return super().forward(Once.apply(x))

    net, x, y = Net(4, 2).double(), torch.randn(3, 4).double(), torch.tensor([0, 1, 0])
    assert Gradient(net).attribute(x, 0).any()
    with pytest.raises(NotDifferentiableError, match="no second derivative"):
        RRR().loss(net, (x, y, torch.ones(4)))


@pytest.mark.parametrize(
    "function", [nn.functional.hardsigmoid, lambda x: torch.cdist(x[:, None], x[:, None].flip(2)).squeeze(2)]
)
def test_composites_have_the_second_derivative(function):
    from xaikit.testing import derivative_error

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.LazyLinear(2)

        def forward(self, x):
            return self.b(function(self.a(x)).tanh())

    torch.manual_seed(0)
    net, x = Net().double(), torch.randn(3, 4).double()
    net(x)
    assert derivative_error(Gradient(net), x, 0) < 1e-5


@pytest.mark.parametrize("weights", [1, 3])
@pytest.mark.parametrize("spec", ["gradient", "integrated_gradients:n_steps=3"])
def test_a_prelu_at_zero_has_one_slope_in_both_passes(weights, spec):
    """torch's own second backward takes the slope 1 there, and its first one the weight."""
    from xaikit.testing import derivative_error

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act, self.b = nn.Conv1d(2, 3, 1, bias=False), nn.PReLU(weights, init=0.3), nn.Linear(12, 2)

        def forward(self, x):
            return self.b((self.act(self.a(x)) - 0.4).square().flatten(1))

    torch.manual_seed(0)
    net, x = Net().double(), torch.randn(3, 2, 4).double()
    x[:, :, 1] = 0
    assert derivative_error(EXPLAINERS.create(spec).bind(net), x, 0) < 1e-5


def test_a_layer_that_the_score_does_not_depend_on_is_named():
    class Dead(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            self.a(x)
            return self.b(x)

    for spec in ("gradient", "integrated_gradients", "lrp_epsilon_plus", "contextual_decomposition", "smoothgrad"):
        with pytest.raises(UnreachableError, match="'a'"):
            EXPLAINERS.create(spec).set_kwargs(layer="a").bind(Dead()).attribute(torch.rand(2, 4), 0)

"""The kernels that stand in for torch's: every derivative against torch's own, and against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core import convolutions, torch_private
from xaikit.core.convolutions import Form, InputGradient, OfInput, fast_convolutions
from xaikit.explainers import Gradient, LRPEpsilonPlus, LRPUniformEpsilon, SmoothGrad
from xaikit.explainers.lrp.rules import affine
from xaikit.mitigation import RRR

# Settings of the convolution, and the shape of a batch.
FEW = [
    ({"in_channels": 1, "kernel_size": 3}, (3, 1, 6, 7)),
    ({"in_channels": 3, "kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2)}, (2, 3, 7, 6)),
    ({"in_channels": 2, "kernel_size": 3, "padding": "same"}, (2, 2, 5, 5)),
    ({"in_channels": 2, "kernel_size": 3, "padding": "valid", "bias": False}, (2, 2, 5, 5)),
    ({"in_channels": 2, "kernel_size": 3, "dilation": 2}, (2, 2, 7, 7)),
    ({"in_channels": 2, "kernel_size": 3, "stride": 2, "padding": 1}, (2, 2, 9)),
]
GROUPED = [
    ({"in_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4}, (2, 4, 5, 5)),
    ({"in_channels": 4, "kernel_size": 3, "stride": 2, "groups": 2, "dilation": (1, 2)}, (2, 4, 7, 7)),
    ({"in_channels": 4, "kernel_size": 3, "groups": 2}, (2, 4, 8)),
]
LARGE = [
    ({"in_channels": 10, "kernel_size": 3, "padding": 1}, (2, 10, 2, 2)),
    ({"in_channels": 9, "kernel_size": (2, 3), "stride": 2, "padding": 1, "bias": False}, (2, 9, 3, 4)),
]


class Own(nn.Conv2d):
    """A user's."""


@pytest.fixture
def small_is_large(monkeypatch):
    monkeypatch.setattr(convolutions, "LARGE_WEIGHT", 100)


def convolution(settings, shape, dtype=torch.float64):
    torch.manual_seed(0)
    kind = nn.Conv1d if len(shape) == 3 else nn.Conv2d
    return kind(out_channels=4, **settings).to(dtype), torch.randn(shape, dtype=dtype, requires_grad=True)


def rewired(module, x, *, twice=True):
    with fast_convolutions([module], twice=twice):
        return module(x)


@pytest.mark.parametrize(("settings", "shape"), [*FEW, *GROUPED, *LARGE])
def test_every_derivative_of_two_orders_is_torchs(settings, shape, small_is_large):
    module, x = convolution(settings, shape)
    leaves = [x, *module.parameters()]
    found = []
    for run in (module, lambda x: rewired(module, x)):
        y = run(x)
        assert y.grad_fn.name() == ("ConvolutionBackward0" if run is module else "OfInputBackward")
        # Curved, so that the incoming gradient depends on all leaves, and each second derivative is there.
        first = torch.autograd.grad(y.sin().sum(), leaves, create_graph=True)
        weights = [torch.randn(g.shape, dtype=g.dtype, generator=torch.Generator().manual_seed(1)) for g in first]
        second = torch.autograd.grad(sum((g.cos() * w).sum() for g, w in zip(first, weights, strict=True)), leaves)
        found.append([y, *first, *second])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("settings", "shape"), [FEW[1], FEW[5], GROUPED[1], LARGE[0]])
def test_finite_differences(settings, shape, small_is_large):
    module, x = convolution({**settings, "bias": True}, shape)

    def run(x, w, b):
        return torch.func.functional_call(module, {"weight": w, "bias": b}, (x,))

    def ours(x, w, b):
        with fast_convolutions([module], twice=True):
            return run(x, w, b)

    arguments = (x, *(p.detach().clone().requires_grad_() for p in module.parameters()))
    assert torch.autograd.gradcheck(ours, arguments)
    assert torch.autograd.gradgradcheck(ours, arguments)


@pytest.mark.parametrize(("settings", "shape"), [*FEW, *GROUPED])
def test_single_precision(settings, shape):
    module, x = convolution(settings, shape, torch.float32)
    exact, x64 = convolution(settings, shape)
    with torch.no_grad():
        x64.copy_(x)
    (found,) = torch.autograd.grad(rewired(module, x).sin().sum(), x)
    (expected,) = torch.autograd.grad(
        exact.load_state_dict(module.double().state_dict()) and exact(x64).sin().sum(), x64
    )
    assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Conv2d(12, 4, 3), (2, 12, 5, 5)),  # many channels, small weights: torch is fast
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"), (2, 2, 5, 5)),
        (nn.Conv2d(2, 4, 2, padding="same"), (2, 2, 5, 5)),  # uneven
        (nn.Conv2d(2, 4, 3), (2, 5, 5)),  # no batch
        (Own(2, 4, 3), (2, 2, 5, 5)),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_others_stay_torchs(module, shape):
    assert rewired(module, torch.randn(shape, requires_grad=True)).grad_fn.name() != "OfInputBackward"


def test_no_gradient_for_the_input_no_other_precision_no_other_hook():
    module, x = convolution(*FEW[0], torch.float32)
    assert rewired(module, x.detach()).grad_fn.name() == "ConvolutionBackward0"
    with torch.no_grad():
        assert rewired(module, x).grad_fn is None
    with torch.autocast("cpu", torch.bfloat16):
        assert rewired(module, x).grad_fn.name() == "ConvolutionBackward0"
    doubled = module.register_forward_hook(lambda _m, _i, y: 2 * y)
    assert torch.equal(rewired(module, x), module(x))
    doubled.remove()
    grouped, x = convolution(*GROUPED[0])
    assert rewired(grouped, x, twice=False).grad_fn.name() == "ConvolutionBackward0"
    assert not module._forward_hooks
    assert not grouped._forward_hooks


def test_what_follows_may_work_in_place_and_a_frozen_weight_gets_nothing():
    module, x = convolution(*FEW[0])
    module.weight.requires_grad_(False)
    y = rewired(module, x).relu_()
    (found,) = torch.autograd.grad(y.square().sum(), x, retain_graph=True)
    (expected,) = torch.autograd.grad(module(x).relu().square().sum(), x)
    assert torch.allclose(found, expected)
    y.sum().backward()
    assert module.weight.grad is None
    assert module.bias.grad is not None


@pytest.mark.parametrize("explainer", [Gradient, SmoothGrad(n_iter=3, max_rows=2), LRPEpsilonPlus, Gradient(layer="0")])
def test_an_explanation_and_its_penalty_are_what_they_were(explainer, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 3, groups=4), nn.Softplus(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32, 3),
    ).double()  # fmt: skip
    x, y, mask = torch.rand(3, 2, 8, 8, dtype=torch.float64), torch.arange(3), torch.rand(8, 8, dtype=torch.float64)
    calls, apply = [], OfInput.apply
    monkeypatch.setattr(OfInput, "apply", lambda *args: calls.append(1) or apply(*args))
    found, state = [], {name: value.clone() for name, value in model.state_dict().items()}
    for kinds in ((nn.Conv1d, nn.Conv2d), ()):
        monkeypatch.setattr(convolutions, "KINDS", kinds)
        for mode in ("train", "eval"):
            model.load_state_dict(state)
            model.zero_grad()
            loss = RRR(explainer=explainer, mode=mode).loss(model, (x, y, mask), seed=0)
            loss.total.backward()
            found.append([loss.total.detach(), *(p.grad.clone() for p in model.parameters())])
    assert bool(calls) == (explainer is not LRPEpsilonPlus)  # whose rules see every operation of torch's
    for ours, torchs in zip(found[:2], found[2:], strict=True):
        assert all(torch.allclose(a, b, rtol=1e-10, atol=1e-12) for a, b in zip(ours, torchs, strict=True))


@pytest.mark.parametrize(
    "changes",
    [{"padding": (1, 1)}, {"padding": 0}, {"stride": 1, "padding": 2}, {"dilation": (2, 1), "padding": (4, 2)}],
    ids=str,
)
@pytest.mark.parametrize(("kernel", "padding"), [(5, "same"), (5, 2), (4, "same")])
def test_a_convolution_whose_settings_were_changed(kernel, padding, changes):
    """As where a net is fitted to small images, or its strides are replaced by dilation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, kernel, padding=padding), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    net = nn.Sequential(*net, nn.Linear(16, 3)).double()
    vars(net[0]).update(changes)
    x, y, mask = torch.randn(2, 3, 9, 9, dtype=torch.float64), torch.tensor([0, 1]), torch.ones(9, 9)
    leaf = x.clone().requires_grad_()
    scores = net(leaf)[[0, 1], y].sum()
    assert torch.allclose(Gradient(net).attribute(x, y), torch.autograd.grad(scores, leaf)[0], atol=1e-12)
    loss = RRR(output="logit").loss(net, (x, y, mask))
    gradients = torch.autograd.grad(net(leaf)[[0, 1], y].sum(), leaf, create_graph=True)[0]
    expected = torch.autograd.grad(gradients.square().sum(), net[0].weight)[0]
    (ours,) = torch.autograd.grad(loss.penalty, net[0].weight)
    assert torch.allclose(ours / ours.norm(), expected / expected.norm(), atol=1e-10)


@pytest.mark.parametrize(("settings", "shape"), [FEW[0], FEW[1], FEW[4], FEW[5]])
@pytest.mark.parametrize("axis", [0, 2])
def test_many_gradients_of_one_input_under_vmap(settings, shape, axis):
    module, x = convolution(settings, shape)
    y, w = module(x), module.weight.detach()
    form = Form(*torch_private.convolution_settings(y.grad_fn))
    gs = torch.randn(3, *y.shape, dtype=torch.float64)
    together = torch.func.vmap(lambda g: InputGradient.apply(g, w, x.detach(), form), axis)(gs.movedim(0, axis))
    ws = torch.stack([w, 2 * w])
    scaled = torch.func.vmap(lambda v: InputGradient.apply(gs[0], v, x.detach(), form))(ws)
    for g, ours in zip(gs, together, strict=True):
        torch.testing.assert_close(ours, torch.autograd.grad(y, x, g, retain_graph=True)[0])
    torch.testing.assert_close(scaled[1], 2 * together[0])


@pytest.mark.parametrize(("settings", "shape"), FEW)
@pytest.mark.parametrize("explainer", [LRPUniformEpsilon, LRPEpsilonPlus])
def test_lrp_with_torchs_kernels(explainer, settings, shape, monkeypatch):
    module, x = convolution(settings, shape)
    model = nn.Sequential(module, nn.Tanh(), nn.Flatten(), nn.LazyLinear(2)).double()
    model(x)
    values, calls, apply = [], [], InputGradient.apply
    monkeypatch.setattr(InputGradient, "apply", lambda *args: calls.append(1) or apply(*args))
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(affine, "few_channels", lambda *_: False)
        relevance = explainer(model).attribute(x.detach(), 1, create_graph=True)
        weights = torch.autograd.grad(relevance.square().sum(), module.weight)[0]
        values.append((relevance.detach(), weights, explainer(model).attribute(x.detach(), 0)))
        assert bool(calls) == (fast and settings.get("padding") not in ("same", "valid"))
        calls.clear()
    for ours, torchs in zip(*values, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-9, atol=1e-12)


CHANNELS = [[3], [0, 9], [], [3, 3, 3]]  # of twelve, not 0 in each of some g


@pytest.mark.parametrize(
    ("settings", "shape", "sparse"),
    [
        ({"kernel_size": 3, "padding": 1}, (2, 5, 6, 7), True),
        ({"kernel_size": (3, 2), "dilation": (2, 1), "padding": (1, 0)}, (2, 5, 7, 6), True),
        ({"kernel_size": 3, "padding": 1}, (2, 5, 6), True),
        ({"kernel_size": 1, "padding": 1}, (2, 5, 6, 6), False),
        ({"kernel_size": 3, "stride": 2}, (2, 5, 6, 7), False),
        ({"kernel_size": 3, "groups": 2}, (2, 4, 6, 7), False),
    ],
)
def test_many_gradients_of_few_channels_take_these_alone(settings, shape, sparse):
    torch.manual_seed(0)
    kind = nn.Conv1d if len(shape) == 3 else nn.Conv2d
    module = kind(shape[1], 12, **settings).double()
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    y = module(x)
    gs = torch.zeros(len(CHANNELS), *y.shape, dtype=torch.float64)
    for g, channels in zip(gs, CHANNELS, strict=True):
        g[:, channels] = torch.randn_like(g[:, channels])
    form = Form(
        *(s if isinstance(s, tuple) else (s,) for s in (module.stride, module.padding, module.dilation)), module.groups
    )
    w = module.weight.detach()
    assert (convolutions._used_channels(gs, w, form) is not None) == sparse
    expected = torch.stack([torch.autograd.grad(y, x, g, retain_graph=True)[0] for g in gs])
    found = torch.func.vmap(lambda g: InputGradient.apply(g, w, x.detach(), form))(gs)
    torch.testing.assert_close(found, expected)
    gs[1] = 1  # all channels of one of them
    assert convolutions._used_channels(gs, w, form) is None
    gs[1] = torch.nan
    assert torch.func.vmap(lambda g: InputGradient.apply(g, w, x.detach(), form))(gs)[1].isnan().any()


def test_a_derivative_by_channels_that_are_0_is_not_lost():
    torch.manual_seed(0)
    w, x = torch.randn(12, 5, 3, 3, dtype=torch.float64), torch.randn(2, 5, 6, 6, dtype=torch.float64)
    gs = torch.zeros(3, 2, 12, 4, 4, dtype=torch.float64)
    gs[:, :, 0] = 1
    gs.requires_grad_()
    form = Form((1, 1), (0, 0), (1, 1), 1)
    torch.func.vmap(lambda g: InputGradient.apply(g, w, x, form))(gs).sum().backward()
    expected = torch.nn.functional.conv2d(torch.ones_like(x), w)
    torch.testing.assert_close(gs.grad, expected.expand_as(gs))

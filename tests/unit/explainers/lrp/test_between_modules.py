"""Relevance through what runs between modules: conserved, equal however it is written, exact in its derivative."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from xaikit.core.errors import InvalidInputError, UnsupportedOperationError
from xaikit.explainers.lrp import LRP, AttnLRP, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.testing import directional_derivative_error

SHAPE = (3, 4, 6)


def _assigned(x):
    out = torch.zeros_like(x)
    out[:, :2] = x[:, 2:]
    out[:, 2:] += x[:, :2]
    return out


STEPS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu by hand": lambda x: 0.5 * x * (1 + torch.tanh(0.8 * (x + 0.04 * x**3))),
    "silu by hand": lambda x: x * torch.sigmoid(x),
    "in place": lambda x: F.hardswish(x + 0, inplace=True).mul_(0.5).add_(x),
    "residual": lambda x: x + torch.tanh(x),
    "product": lambda x: x * x.flip(-1),
    "attention": lambda x: F.scaled_dot_product_attention(x, x.flip(1), x),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x)[..., :4] @ x,
    "layer norm": lambda x: F.layer_norm(x, (6,)),
    "norm by hand": lambda x: (x - x.mean(-1, keepdim=True)) * torch.rsqrt(x.var(-1, keepdim=True) + 1e-3),
    "unit length": lambda x: F.normalize(x, dim=-1),
    "group norm": lambda x: F.group_norm(x, 2),
    "pool and upsample": lambda x: F.interpolate(F.max_pool1d(x, 2), scale_factor=2),
    "glu": lambda x: F.glu(torch.cat([x, x.flip(1)], 1), 1),
    "gate of the mean": lambda x: x * torch.sigmoid(x.mean(-1, keepdim=True)),
    "where": lambda x: torch.where(x > 0, x, 0.1 * x),
    "shuffle": lambda x: x.reshape(3, 2, 2, 6).transpose(1, 2).reshape(x.shape).roll(1, -1),
    "slice assignment": _assigned,
    "branch": lambda x: x.tanh() if float(x.detach().sum()) > 0 else x.clamp(min=-0.1),
    "functional linear": lambda x: F.linear(x, torch.linspace(-1, 1, 36, dtype=x.dtype).view(6, 6)),
    "functional conv": lambda x: F.conv1d(x, torch.linspace(-1, 1, 48, dtype=x.dtype).view(4, 4, 3), padding=1),
    "standard deviation": lambda x: x / x.std(-1, keepdim=True),
}  # fmt: skip


class Chain(nn.Module):
    def __init__(self, names):
        super().__init__()
        self.steps = [STEPS[n] for n in names]

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        # Weighted: the plain sum of a normalised tensor is 0.
        flat = x.flatten(1)
        return (flat * torch.linspace(0.1, 1, flat.shape[1], dtype=x.dtype).square()).sum(1, keepdim=True)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("explainer", [LRPUniformEpsilon, LRPEpsilonGammaBox])
def test_every_step_conserves(step, explainer):
    x = torch.randn(SHAPE, dtype=torch.float64)
    model = Chain([step])
    explained = explainer(model, epsilon=1e-9, stabilizer=1e-12).explain(x)
    assert (explained.gap < 1e-5 * explained.scores.abs().max()).all()
    assert not explained.lost


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(STEPS)), min_size=2, max_size=5), st.integers(0, 1000))
def test_chains_conserve(names, seed):
    x = torch.randn(SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    model = Chain(names)
    scores = model(x)
    assume(bool(scores.isfinite().all()))  # what a ReLU has cut to 0 has no deviation to divide by
    assume(float(scores.abs().sum()) > 1e-9)  # the mean of a layer norm is 0 but for rounding, and so is all of it
    explained = LRPUniformEpsilon(model, epsilon=1e-9, stabilizer=1e-12).explain(x)
    assert (explained.gap < 1e-2 * explained.scores.abs().max() + 1e-9).all()


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("packed", [False, True])
def test_recurrent_nets(kind, packed):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = getattr(nn, kind)(4, 5, batch_first=True, bidirectional=True, num_layers=2)
            self.head = nn.Linear(10, 3)

        def forward(self, x):
            given = pack_padded_sequence(x, [6, 2, 3], batch_first=True, enforce_sorted=False) if packed else x
            out = self.rnn(given)[0]
            return self.head((pad_packed_sequence(out, batch_first=True)[0] if packed else out).sum(1))

    model, x = Net().double().eval(), torch.randn(3, 6, 4, dtype=torch.float64)
    seen = []
    model.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    explainer = LRPUniformEpsilon(model, epsilon=1e-2)
    relevance = explainer.attribute(x, 0)
    torch.testing.assert_close(seen[0], model(x).detach(), rtol=1e-12, atol=1e-12)
    if packed:
        assert not relevance[1, 2:].any()
    assert directional_derivative_error(explainer, x, torch.tensor([0, 1, 2])) < 1e-5
    for name, parameter in model.named_parameters():
        if "bias" in name:
            nn.init.zeros_(parameter)
    explained = LRPUniformEpsilon(model, epsilon=1e-9, stabilizer=1e-12).explain(x, 0)
    assert (explained.gap < 1e-5 * explained.scores.abs().max()).all()


@pytest.mark.parametrize("cell", ["LSTMCell", "GRUCell", "RNNCell"])
def test_recurrent_cells(cell):
    step = getattr(nn, cell)(4, 5, bias=False).double()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = step

        def forward(self, x):
            state = None
            for t in range(x.shape[1]):
                state = self.step(x[:, t], state)
            return (state[0] if isinstance(state, tuple) else state).sum(1, keepdim=True)

    explained = LRPUniformEpsilon(Net(), epsilon=1e-9, stabilizer=1e-12).explain(torch.randn(3, 4, 4).double())
    assert (explained.gap < 1e-6 * explained.scores.abs().max()).all()


def test_transformer_encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(40, 3)).double().eval()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    for explainer in (LRPUniformEpsilon, AttnLRP):
        assert directional_derivative_error(explainer(model, epsilon=1e-2), x, torch.tensor([0, 1, 2])) < 1e-5


def test_tied_weights_and_reused_modules():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            return F.linear(F.relu(self.layer(F.relu(self.layer(x)))), self.layer.weight.t())

    class Untied(nn.Module):
        def __init__(self, w):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
            for layer, weight in zip(self.layers, (w, w, w.t()), strict=True):
                layer.weight = nn.Parameter(weight.detach().clone())

        def forward(self, x):
            return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))

    tied, x = Tied().double(), torch.randn(3, 4, dtype=torch.float64)
    untied = Untied(tied.layer.weight)
    expected = LRPUniformEpsilon(untied).attribute(x, 1)
    assert torch.allclose(LRPUniformEpsilon(tied).attribute(x, 1), expected, rtol=1e-12)


def test_weight_norm_keeps_the_rule():
    plain = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 3, 3).double()), *plain[1:])
    with torch.no_grad():
        plain[0].weight.copy_(normed[0].weight)
        plain[0].bias.copy_(normed[0].bias)
    x = torch.randn(3, 2, 6, dtype=torch.float64)
    assert torch.allclose(LRPEpsilonPlus(normed).attribute(x, 1), LRPEpsilonPlus(plain).attribute(x, 1), rtol=1e-12)


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_softmax_at_the_end_is_left_out(end):
    body, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(3, 4)
    with pytest.warns(UserWarning, match="logits"):
        explained = LRPEpsilonPlus(nn.Sequential(body, end)).explain(x, 1)
    assert torch.equal(explained.values, LRPEpsilonPlus(body).attribute(x, 1))
    assert torch.equal(explained.scores, body(x)[:, 1].detach())


def test_explain_splits_the_gap(residual):
    model, x = residual
    explained = LRPEpsilonPlus(model).explain(x, 0)
    assert explained.lost == {}
    missing = explained.scores.sum() - explained.values.sum()
    assert explained.absorbed == pytest.approx(float(missing), rel=1e-9)
    assert torch.equal(explained.values, LRPEpsilonPlus(model).attribute(x, 0))


def test_explain_names_the_operation_that_loses_relevance():
    class Leaky(nn.Module):
        def forward(self, x):
            return torch.atan2(x, x.flip(1) + 1).sum(1, keepdim=True)

    unruled, lost = (pytest.warns(UserWarning, match=f"{words} atan2") for words in ("no rule for:", "lost in"))
    with unruled, lost:
        explained = LRPEpsilonPlus(Leaky()).explain(torch.rand(2, 4))
    assert list(explained.lost) == ["atan2 (Leaky)"]


def test_nan_names_its_place():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[2].weight[0, 0] = float("inf")
        model[0].bias.fill_(9)
    with pytest.raises(InvalidInputError, match=r"becomes NaN or infinite in linear \(Linear '2'\)"):
        LRPEpsilonPlus(model).attribute(torch.randn(2, 4), 0)


def test_nan_of_the_model_itself_names_the_module_where_it_begins():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    for create_graph in (False, True):
        with pytest.raises(InvalidInputError, match=r"the model itself computes NaN in linear \(Linear '2'\)"):
            LRPEpsilonPlus(model).attribute(torch.randn(2, 4), 0, create_graph=create_graph)


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g


class Root(torch.autograd.Function):
    """Its forward pass runs operations that have rules, without a graph."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return torch.sqrt(torch.sigmoid(x))

    @staticmethod
    def backward(ctx, g):
        s = torch.sigmoid(ctx.saved_tensors[0])
        return g * s.sqrt() * (1 - s) / 2


@torch.jit.script
def scripted(x):
    return torch.logcumsumexp(x, 1) * 2


class Hidden(nn.Module):
    """An operation that cannot be seen, in the root module, in the middle or at the end."""

    def __init__(self, operation, end=False):
        super().__init__()
        self.first, self.last, self.operation = nn.Linear(4, 4), nn.Identity() if end else nn.Linear(4, 4), operation

    def forward(self, x):
        return self.last(self.operation(self.first(x)))


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("method", ["attribute", "explain"])
@pytest.mark.parametrize(
    ("operation", "name"), [(Double.apply, "Double"), (Root.apply, "Root"), (scripted, "logcumsumexp")]
)
def test_operations_out_of_sight_are_named(operation, name, method, end):
    explainer = LRPUniformEpsilon(Hidden(operation, end))
    with pytest.warns(UserWarning, match=rf"no rule for: .*{name}.*, out of sight .*\(in Hidden\)"):
        getattr(explainer, method)(torch.randn(2, 4), 0)


def test_a_scripted_model_is_refused_and_a_scripted_part_told():
    scripted_net = torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
    with pytest.raises(UnsupportedOperationError, match="cannot look inside this RecursiveScriptModule"):
        LRPUniformEpsilon(scripted_net).attribute(torch.randn(2, 4), 0)
    with pytest.warns(UserWarning, match=r"addmm, relu, out of sight .*\(in Sequential\)"):
        LRPUniformEpsilon(nn.Sequential(scripted_net, nn.Linear(3, 2))).attribute(torch.randn(2, 4), 0)


def test_half_precision(variant):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    x = torch.rand(2, 1, 8, 8)
    full = variant(model).attribute(x, 1)
    for dtype, tolerance in ((torch.float16, 1e-2), (torch.bfloat16, 1e-1)):
        half = variant(model.to(dtype)).attribute(x.to(dtype), 1).float()
        assert (half - full).abs().max() < tolerance * full.abs().max()


def test_inner_layers():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.Flatten())
    model = nn.Sequential(net, nn.Linear(64, 3, bias=False)).double()
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    for layer in (None, "0.0", "0.2"):
        total = LRPUniformEpsilon(model, epsilon=1e-9, layer=layer).attribute(x, 1).flatten(1).sum(1)
        torch.testing.assert_close(total, model(x)[:, 1].detach(), rtol=1e-5, atol=1e-7)


def test_parameters_computed_from_the_input():
    class Hyper(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Linear(4, 12, bias=False), nn.Linear(4, 3, bias=False)

        def forward(self, x):
            return F.linear(x, self.weight(x[0]).view(3, 4), self.bias(x[0]))

    explained = LRPUniformEpsilon(Hyper().double(), epsilon=1e-9).explain(torch.randn(1, 4, dtype=torch.float64), 1)
    assert (explained.gap < 1e-6 * explained.scores.abs()).all()


def test_composites_without_relevance_rules_are_refused():
    with pytest.raises(InvalidInputError, match="guided_backprop"):
        LRP(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), composite="guided_backprop").attribute(torch.ones(1, 2), 0)


@pytest.mark.parametrize("kind", ["grad", "func.grad", "jvp"])
def test_a_model_that_differentiates_in_its_forward_pass_is_refused(kind):
    class Forces(nn.Module):
        def __init__(self):
            super().__init__()
            self.energy = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1))

        def forward(self, x):
            if kind == "func.grad":
                return torch.func.vmap(torch.func.grad(lambda v: self.energy(v[None]).sum()))(x)
            if kind == "jvp":
                return torch.func.jvp(self.energy, (x,), (torch.ones_like(x),))[1].expand(-1, 2)
            with torch.enable_grad():
                x = x if x.requires_grad else x.detach().requires_grad_()
                return torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of jvp
        with pytest.raises(UnsupportedOperationError, match="derivative that the model itself computes"):
            LRPEpsilonPlus(Forces()).attribute(torch.randn(3, 4), 1)


CHOSEN = {
    "max": lambda p: p.max(1, keepdim=True)[0],
    "amax": lambda p: p.amax(1, keepdim=True),
    "topk": lambda p: p.topk(1, 1).values,
    "sort": lambda p: p.sort(1, descending=True).values[:, :1],
}


@pytest.mark.parametrize("way", CHOSEN)
def test_the_weight_of_a_chosen_expert_is_a_gate_however_it_is_chosen(way):
    class Experts(nn.Module):
        def __init__(self, weight):
            super().__init__()
            torch.manual_seed(0)
            self.router, self.experts = nn.Linear(4, 3), nn.ModuleList(nn.Linear(4, 2) for _ in range(3))
            self.weight = [weight]

        def forward(self, x):
            p = self.router(x).softmax(1)
            chosen = torch.stack([self.experts[int(k)](row) for row, k in zip(x, p.argmax(1), strict=True)])
            return chosen * self.weight[0](p)

    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    expected = LRPEpsilonPlus(Experts(lambda p: p.gather(1, p.argmax(1, keepdim=True)))).attribute(x, 0)
    torch.testing.assert_close(LRPEpsilonPlus(Experts(CHOSEN[way])).attribute(x, 0), expected)

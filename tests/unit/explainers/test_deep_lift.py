"""DeepLIFT and DeepLIFT-SHAP: completeness on nets that nobody chose, derivatives, captum where it is complete."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.random_nets.nets import build
from xaikit import EXPLAINERS
from xaikit.core.errors import InvalidInputError, UnsupportedOperationError
from xaikit.core.structure import flatten
from xaikit.explainers import DeepLift, DeepLiftShap


def explainer_of(case, **settings):
    settings |= {"head": 0} if case.net.output == "tuple" else {}
    return DeepLift(case.net, **settings, **({} if case.layer is None else {"layer": case.layer}))


def total(values):
    return sum(v.detach().reshape(len(v), -1).sum(1) for v in values)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("start", [0, *(pytest.param(n, marks=pytest.mark.nightly) for n in (25, 50, 75))])
def test_attributions_sum_to_the_difference_on_random_nets(start):
    for seed in range(start, start + 25):
        case = build(seed)
        result = explainer_of(case, baseline=0.3).explain(case.inputs, case.targets)
        size = total(flatten(result.values)[0]).abs() + 1e-3 * result.scores.abs()
        assert float((result.gap / size).max()) < 1e-8, f"seed {seed}: {case}"


class Step(nn.Module):
    """A function between two linear layers."""

    def __init__(self, function, features=6, **parts):
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(6, 6), nn.Linear(features, 3)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.last(self.function(self, self.first(x)))


def written(m, x):
    z = torch.zeros_like(x)
    half = z[:, :3]
    half.copy_(x[:, :3].exp())
    z[:, 3:] += x[:, 3:].sigmoid()
    return z


def below_zero(m, x):
    y = x.clone()
    y[y < 0] = 0
    return y


STEPS = {
    "handwritten RMSNorm": lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "condition": lambda m, x: torch.where(x > 0.1, x, 0.2 * x),
    "jump": lambda m, x: torch.where(x.mean(1, keepdim=True) > 0, x.sin(), x.abs() + 0.5),
    "filled": lambda m, x: x.masked_fill(x < 0, -0.5),
    "mask": lambda m, x: x * (x > 0),
    "written": written,
    "set where": below_zero,
    "detached": lambda m, x: (x.round() - x).detach() + x,
    "sorted": lambda m, x: x.sort(1).values,
    "gathered": lambda m, x: x.gather(1, x.argsort(1)),
    "topk": lambda m, x: x.topk(3, 1).values.repeat(1, 2),
    "extremes": lambda m, x: (x - x.amin(1, True)) / (x.max(1, keepdim=True)[0] - x.min(1, keepdim=True).values),
    "product of all": lambda m, x: x * x.prod(1, keepdim=True),
    "spread": lambda m, x: x / (x.var(1, keepdim=True) + x.std(1, keepdim=True)),
    "moments": lambda m, x: (x - torch.var_mean(x, 1, keepdim=True)[1]) / torch.var_mean(x, 1, keepdim=True)[0].sqrt(),
    "power": lambda m, x: (x.abs() + 1) ** x,
    "angle": lambda m, x: torch.atan2(x, x.flip(1) + 2),
    "spectrum": lambda m, x: torch.fft.rfft(x).abs().repeat(1, 2)[:, :6],
    "in place": lambda m, x: x.mul(2).sigmoid_().add_(x).relu_(),
    "out": lambda m, x: torch.exp(x.detach(), out=torch.empty_like(x)) * x,
    "attention": lambda m, x: m.attention(*[x.view(-1, 3, 2)] * 3)[0].flatten(1),
    "steps": lambda m, x: m.rnn(x.view(-1, 3, 2))[0].flatten(1),
}
PARTS = {
    "attention": lambda: {"attention": nn.MultiheadAttention(2, 1, batch_first=True)},
    "steps": lambda: {"rnn": nn.LSTM(2, 1, bidirectional=True, batch_first=True)},
}


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_attributions_sum_to_the_difference(name, baseline):
    torch.manual_seed(3)
    model = Step(STEPS[name], **PARTS.get(name, dict)()).double().eval()
    x = torch.randn(5, 6, dtype=torch.float64)
    values = DeepLift(model, baseline=baseline).attribute(x, 1)
    expected = (model(x) - model(torch.full_like(x, baseline)))[:, 1].detach()
    assert torch.allclose(values.sum(1), expected, rtol=1e-9, atol=1e-10)
    assert float(values.abs().max()) < 100  # not by parts that cancel


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)),
    "sigmoid": lambda: nn.Sequential(nn.Linear(12, 9), nn.Sigmoid(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3)),
    "cnn": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.AvgPool1d(2),
        nn.Conv1d(4, 4, 2), nn.ELU(), nn.Flatten(), nn.Linear(16, 3),
    ),
    "max pooling": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 12)), nn.Conv1d(1, 4, 3), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(20, 3)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_equals_captum_where_captum_is_complete(name):
    torch.manual_seed(5)
    model, x = MODELS[name]().double().eval(), torch.randn(6, 12, dtype=torch.float64)
    references = torch.randn(3, 12, dtype=torch.float64)
    peer = EXPLAINERS.create("captum.deep_lift", baseline=references[0]).bind(model).explain(x, 2)
    assert float(peer.gap.max()) < 1e-9
    assert torch.allclose(DeepLift(model, baseline=references[0]).attribute(x, 2), peer.values, atol=1e-9)
    peer = EXPLAINERS.create("captum.deep_lift_shap", baselines=references).bind(model).attribute(x, 2)
    assert torch.allclose(DeepLiftShap(model, references=references).attribute(x, 2), peer, atol=1e-9)


def test_the_rescale_rule():
    x = torch.tensor([[2.0, -1.0, 3.0, -4.0]])
    b = torch.tensor([[1.0, 3.0, -2.0, -1.0]])
    values = DeepLift(nn.ReLU(), baseline=b[0]).attribute(x, lambda y: y.sum(1))
    assert torch.equal(values, F.relu(x) - F.relu(b))
    squares = DeepLift(nn.Identity(), baseline=b[0]).attribute(x, lambda y: y.square().sum(1))
    assert torch.allclose(squares, x**2 - b**2)


def test_factors_get_their_shapley_values():
    x = torch.tensor([[2.0, 5.0]])
    values = DeepLift(nn.Identity(), baseline=torch.tensor([1.0, 3.0])).attribute(x, lambda y: y[:, 0] * y[:, 1])
    first = ((2 * 3 - 1 * 3) + (2 * 5 - 1 * 5)) / 2
    assert torch.allclose(values, torch.tensor([[first, 2.0 * 5 - 3 - first]]))


def test_near_values_keep_their_digits():
    model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 1)).double()
    x = torch.randn(2, 6, dtype=torch.float64)
    for gap in (1e-3, 1e-7, 1e-12):
        values = DeepLift(model, baseline=x[0] - gap).attribute(x[:1]) / gap
        gradient = EXPLAINERS.create("gradient").bind(model).attribute(x[:1] - gap / 2)
        assert torch.allclose(values, gradient, rtol=max(gap, 1e-3))


@pytest.mark.parametrize("seed", [1, 3, 9, 22, 31, 36, 47])
@pytest.mark.filterwarnings("ignore")
def test_derivative_against_finite_differences(seed):
    case = build(seed)
    explainer = explainer_of(case, baseline=0.2)

    def penalty(create_graph=False):
        values = flatten(explainer.attribute(case.inputs, case.targets, create_graph=create_graph))[0]
        return sum((v * torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).view_as(v)).square().sum() for v in values)

    weights = [p for p in case.net.parameters() if p.requires_grad]
    grads = torch.autograd.grad(penalty(True), weights, allow_unused=True)
    way = [torch.randn_like(p) for p in weights]
    exact = sum(float((g * w).sum()) for g, w in zip(grads, way, strict=True) if g is not None)
    errors = []
    for step in (1e-4, 1e-5, 1e-6):
        ends = []
        for sign in (1, -2):
            with torch.no_grad():
                for p, w in zip(weights, way, strict=True):
                    p.add_(sign * step * w)
            ends.append(float(penalty().detach()))
        with torch.no_grad():
            for p, w in zip(weights, way, strict=True):
                p.add_(step * w)
        errors.append(abs((ends[0] - ends[1]) / (2 * step) - exact) / max(abs(exact), 1e-6))
    assert min(errors) < 1e-6, f"{errors}: {case}"


@pytest.mark.nightly
def test_several_references_as_one_each_also_in_a_loss():
    model = Step(lambda m, x: F.layer_norm(x, (6,)).relu()).double()
    x, references = torch.randn(4, 6, dtype=torch.float64), torch.randn(5, 6, dtype=torch.float64)
    each = torch.stack([DeepLift(model, baseline=b).attribute(x, 1) for b in references])
    for rows in (None, 1, 6):
        explainer = DeepLiftShap(model, references=references, max_rows=rows)
        assert torch.allclose(explainer.attribute(x, 1), each.mean(0))
        values = explainer.attribute(x, 1, create_graph=True)
        weights = [model.first.weight, model.first.bias, model.last.weight]
        grads = torch.autograd.grad(values.square().sum(), weights)
        alone = [DeepLift(model, baseline=b).attribute(x, 1, create_graph=True) for b in references]
        expected = torch.autograd.grad((sum(alone) / 5).square().sum(), weights)
        assert all(torch.allclose(a, b) for a, b in zip(grads, expected, strict=True))


@pytest.mark.filterwarnings("ignore:the rows of this Step are not independent")
def test_rows_that_see_each_other_run_in_a_whole_batch():
    model = Step(lambda m, x: x.tanh() * x.mean(0)).double()
    x, references = torch.randn(4, 6, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    values = DeepLiftShap(model, references=references).attribute(x, lambda y: y.sum(1))
    each = [DeepLift(model, baseline=b).attribute(x, lambda y: y.sum(1)) for b in references]
    assert torch.allclose(values, sum(each) / 2)
    shift = model(x).sum() - sum(model(b.expand(4, 6)).sum() for b in references) / 2
    assert torch.allclose(values.sum(), shift)  # of the whole batch


def test_targets_layers_and_several_at_once():
    model = Step(lambda m, x: m.inner(x).relu(), inner=nn.Linear(6, 6)).double()
    x = np.random.default_rng(0).normal(size=(3, 6))
    tensor = torch.from_numpy(x)
    both = DeepLift(model).attribute(x, ["class:index=0", "log_probability:of=2"])
    outputs = torch.stack([model(tensor)[:, 0], model(tensor).log_softmax(1)[:, 2]])
    zero = model(torch.zeros_like(tensor))
    assert torch.allclose(both.sum(2), (outputs.T - torch.stack([zero[:, 0], zero.log_softmax(1)[:, 2]], 1)).T)
    at_layer = DeepLift(model, layer="inner").attribute(x, 1)
    inner = model.inner(model.first(tensor))
    assert torch.allclose(at_layer.sum(1), model.last(inner.relu())[:, 1] - model.last.bias[1])


def test_specs_and_pickles():
    explainer = DeepLift(MODELS["mlp"](), baseline=0.5)
    again = EXPLAINERS.create(explainer.describe())
    assert again == explainer.set_kwargs() or again.baseline == explainer.baseline
    assert pickle.loads(pickle.dumps(explainer)).baseline == explainer.baseline
    assert EXPLAINERS.create("captum.deep_lift:eps=1e-6").NAME == "captum.deep_lift"


class Square(torch.autograd.Function):
    """Its inside is not seen."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


def test_what_cannot_be_compared_is_refused_or_told():
    x = torch.randn(4, 6)
    scripted = torch.jit.script(nn.Sequential(nn.Linear(6, 6), nn.ReLU()))
    refused = {
        "cannot look inside": lambda m, x: scripted(x),
        "draws random numbers": lambda m, x: F.gumbel_softmax(x, dim=-1),
        "another way for the baseline": lambda m, x: x * 2 if bool(x.sum() > m.last.bias.sum() * 0 + 3) else -x,
        "for the one": lambda m, x: x[x > 0].sum() * x,
    }
    torch.manual_seed(0)
    for match, function in refused.items():
        model = Step(function)
        with torch.no_grad():
            model.first.weight.fill_(1)
        with pytest.raises(UnsupportedOperationError, match=match):
            DeepLift(model).attribute(x.abs(), 0)
    with pytest.warns(UserWarning, match="no exact rule for: SquareBackward"):
        DeepLift(Step(lambda m, x: Square.apply(x))).attribute(x, 0)
    with pytest.warns(UserWarning, match="no exact rule for: tolist, numbers"):
        DeepLift(Step(lambda m, x: x + torch.tensor(x.detach().tolist()))).attribute(x, 0)
    for function in (
        lambda m, x: x + (x > 0.1),
        lambda m, x: torch.where(x[:, :1] > 0, F.hardshrink(x, 9) + 1, F.hardshrink(x, 9)),
    ):
        with pytest.warns(UserWarning, match="no exact rule for: .* whose condition alone differs for the baseline"):
            DeepLift(Step(function)).attribute(x, 0)
    assert DeepLift(
        Step(lambda m, x: torch.linalg.inv(x[:, :4].view(-1, 2, 2)).flatten(1).repeat(1, 2)[:, :6])
    ).missing_rules(x) == ("inv in Step",)
    with pytest.raises(InvalidInputError, match="references must be samples like those explained"):
        DeepLiftShap(Step(lambda m, x: x), references=torch.zeros(2, 5)).attribute(x, 0)


def test_a_model_that_looks_at_its_tensors_as_arrays():
    class Looks(nn.Linear):
        def forward(self, x):
            assert len(x.detach().numpy()) == len(x)
            return super().forward(x)

    model, x = Looks(3, 2), torch.randn(2, 3)
    with pytest.warns(UserWarning, match="numpy, numbers read off a tensor"):
        assert torch.allclose(DeepLift(model).attribute(x, 1), x * model.weight[1], atol=1e-6)


def test_older_pickles_of_captums_class():
    explainer = EXPLAINERS.create("captum.deep_lift:eps=1e-6")
    text = pickle.dumps(explainer, protocol=0).replace(b"CaptumDeepLift", b"DeepLift")
    assert pickle.loads(text) == explainer


@pytest.mark.parametrize(
    "function",
    [lambda h: (h / (2 + 1j)).imag, lambda h: (h * 1j + 0.0j).imag, lambda h: (1j / (h + 9)).imag],
    ids=["divided", "multiplied", "divisor"],
)
def test_complex_numbers_are_seen(function):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()

        def forward(self, x):
            return self.last(function(self.first(x)))

    model, x = Net(), torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a quotient has no exact rule there
        values = DeepLift(model).attribute(x, 0)
    torch.testing.assert_close(values.sum(1), (model(x) - model(torch.zeros_like(x)))[:, 0], rtol=1e-6, atol=1e-8)

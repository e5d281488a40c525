"""However a model calls an operation, it follows the same rule; an operation without a rule is refused by name."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.unit.explainers.cd.helpers import decompose, standard_masks
from xaikit import ContextualDecomposition
from xaikit.core.errors import UnsupportedOperationError
from xaikit.explainers.cd.registry import rule_for
from xaikit.explainers.cd.rules import by_kind
from xaikit.torch_ops import KINDS, Kind

W = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def stacked(x):
    return x[:, None].expand(-1, 4, 4)


# by position and by keyword, or as an operator, a method, in place, into `out`
FORMS = {
    "matmul": (lambda x: x @ W, lambda x: torch.matmul(input=x, other=W)),
    "mul": (lambda x: x * x.sigmoid(), lambda x: torch.mul(x, other=x.sigmoid())),
    "add": (lambda x: x + 2 * (x * 2), lambda x: torch.add(input=x, other=x * 2, alpha=2)),
    "sub": (lambda x: 3 - x, lambda x: torch.rsub(x, other=3)),
    "div": (lambda x: x / (x.norm(dim=1, keepdim=True) + 1), lambda x: x.div(other=x.norm(dim=1, keepdim=True) + 1)),
    "bmm": (
        lambda x: torch.bmm(x[:, None], W.expand(len(x), 4, 4)),
        lambda x: torch.bmm(input=x[:, None], mat2=W.expand(len(x), 4, 4)),
    ),
    "baddbmm": (
        lambda x: torch.baddbmm(torch.ones(len(x), 4, 4).double(), stacked(x), W.expand(len(x), 4, 4), beta=0.5),
        lambda x: torch.ones(len(x), 4, 4).double().baddbmm(batch1=stacked(x), batch2=W.expand(len(x), 4, 4), beta=0.5),
    ),
    "addmm": (lambda x: torch.addmm(W[0], x, W), lambda x: torch.addmm(input=W[0], mat1=x, mat2=W)),
    "addcmul": (
        lambda x: torch.addcmul(x, x, x, value=0.5),
        lambda x: torch.addcmul(x, tensor1=x, tensor2=x, value=0.5),
    ),
    "linear": (lambda x: F.linear(x, W, W[0]), lambda x: F.linear(bias=W[0], weight=W, input=x)),
    "sum": (lambda x: x.sum(1, True), lambda x: torch.sum(input=x, dim=1, keepdim=True)),
    "mean over an axis": (lambda x: x.mean(1, True), lambda x: x.mean(axis=1, keepdim=True)),
    "softmax": (lambda x: F.softmax(x, 1), lambda x: torch.softmax(input=x, dim=1)),
    "layer_norm": (lambda x: F.layer_norm(x, (4,), W[0], W[1]), lambda x: torch.layer_norm(x, (4,), W[0], W[1])),
    "batch_norm": (
        lambda x: F.batch_norm(x, W[0], W[1].abs(), W[2], W[3]),
        lambda x: torch.batch_norm(x, W[2], W[3], W[0], W[1].abs(), False, 0.1, 1e-5, False),
    ),
    "relu": (lambda x: x.relu(), lambda x: F.relu(input=x * 1, inplace=True)),
    "clamp": (lambda x: x.clamp(-0.5, 0.5), lambda x: torch.clip(input=x, min=-0.5, max=0.5)),
    "pow": (lambda x: x**2, lambda x: torch.pow(x, exponent=2)),
    "lerp": (lambda x: torch.lerp(x, 2 * x, x.sigmoid()), lambda x: x.lerp(weight=x.sigmoid(), end=2 * x)),
    "concatenate": (lambda x: torch.cat([x, W[:2]], 1), lambda x: torch.concat(tensors=[x, W[:2]], axis=1)),
    "split": (
        lambda x: x.split(2, 1)[1],
        lambda x: torch.split(tensor=x, split_size_or_sections=2, dim=1)[1],
    ),
    "into out": (lambda x: x * W[0], lambda x: torch.mul(x, W[0], out=torch.empty(len(x), 4).double())),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x[:, :, None], x[:, :, None], x[:, :, None]),
        lambda x: F.scaled_dot_product_attention(key=x[:, :, None], value=x[:, :, None], query=x[:, :, None]),
    ),
    "conv1d": (
        lambda x: F.conv1d(x[:, None], W[:2, None, :3], W[0, :2]),
        lambda x: torch.conv1d(bias=W[0, :2], input=x[:, None], weight=W[:2, None, :3]),
    ),
    "pooling": (
        lambda x: F.max_pool1d(x[:, None], 2),
        lambda x: F.max_pool1d(input=x[:, None], kernel_size=2, return_indices=True)[0],
    ),
    "sum of products": (
        lambda x: F.bilinear(x, x, W.expand(2, 4, 4)),
        lambda x: torch.einsum("ni,oij,nj->no", x, W.expand(2, 4, 4), x),
    ),
}


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.function = nn.Linear(4, 4).double(), function

    def forward(self, x):
        return self.function(self.first(x)).flatten(1)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("rules", ["symmetric", "cdep"])
def test_forms_of_a_call(name, rules):
    x = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, other = (decompose(Net(function), x, standard_masks((4,)), rules) for function in FORMS[name])
    with torch.no_grad():
        output = Net(FORMS[name][1])(x)
    assert torch.allclose(one.total, output.expand_as(one.total), atol=1e-12)
    assert torch.allclose(one.relevant, other.relevant, atol=1e-12)
    assert torch.allclose(one.irrelevant, other.irrelevant, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("logcumsumexp", lambda x: torch.logcumsumexp(x, 1)),
        ("quantile", lambda x: torch.quantile(x, 0.3, dim=1, keepdim=True)),
        ("fmod", lambda x: torch.fmod(W[:2], x)),
        ("scatter_reduce", lambda x: W[:2].scatter_reduce(1, torch.zeros(2, 4).long(), x, "prod")),
    ],
)
def test_what_has_no_rule_is_refused(name, function):
    with pytest.raises(UnsupportedOperationError, match=rf"`{name}.*Net"):
        ContextualDecomposition(Net(function)).decompose(torch.randn(2, 4).double(), torch.ones(1, 4))


@pytest.mark.parametrize("rules", ["symmetric", "cdep"])
@pytest.mark.parametrize(
    ("message", "function"),
    [
        ("no rule for `grad`", lambda x: torch.autograd.functional.jacobian(lambda z: z.tanh().sum(0), x).sum(0)),
        ("torch.func", lambda x: torch.func.jvp(torch.tanh, (x,), (torch.ones_like(x),))[1]),
        ("no rule", torch.func.grad(lambda z: z.tanh().sum())),
    ],
    ids=["jacobian", "jvp", "func.grad"],
)
def test_a_model_that_differentiates_itself_is_refused(message, function, rules):
    """torch skips what requires no gradient: a derivative of zeros was the result."""
    with pytest.raises(UnsupportedOperationError, match=message):
        ContextualDecomposition(Net(function), rules=rules).attribute(torch.randn(2, 4).double(), 0)


def test_torchs_warning_at_its_first_forward_derivative_is_not_the_users(monkeypatch):
    jvp, loaded = torch.func.jvp, []

    def first_warns(*args):
        if not loaded:
            warnings.warn("`torch.jit.script` is deprecated", DeprecationWarning, stacklevel=2)
            loaded.append(True)
        return jvp(*args)

    by_kind._load_forward_derivatives.cache_clear()
    monkeypatch.setattr(torch.func, "jvp", first_warns)
    net = Net(lambda x: F.pairwise_distance(x, W[0], keepdim=True))
    ContextualDecomposition(net).attribute(torch.randn(2, 4).double(), 0)
    assert loaded


W_3 = torch.stack([W, 2 * W, -W])


@pytest.mark.parametrize("options", [{}, {"rules": "cdep"}, {"on_missing": "proportional"}], ids=str)
@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.vmap(lambda w, z: F.linear(z, w, w[0]).relu() @ w, in_dims=(0, None))(W_3, x).mean(0),
        torch.vmap(lambda row: F.linear(row, W).tanh()),
    ],
    ids=["over members", "over samples"],
)
def test_a_model_under_vmap_is_refused(function, options):
    with pytest.raises(UnsupportedOperationError, match=r"torch\.vmap.*in a loop"):
        ContextualDecomposition(Net(function), **options).attribute(torch.randn(2, 4).double(), 0)


def test_constants_under_vmap_are_constants():
    x, mask = torch.randn(2, 4).double(), torch.tensor([[True, False, True, False]])
    mapped = decompose(Net(lambda x: x * torch.vmap(torch.exp)(W[:2])), x, mask)
    assert torch.equal(mapped.relevant, decompose(Net(lambda x: x * W[:2].exp()), x, mask).relevant)


COMPLETE = (Kind.LINEAR, Kind.SUM, Kind.ELEMENTWISE, Kind.GATE, Kind.COMPOSED, Kind.RECURRENT, Kind.SCALE)


def test_most_kinds_have_a_rule_for_all_operations():
    without = [
        name for name, kind in KINDS.items() if kind in COMPLETE and rule_for(getattr(torch, name, name)) is None
    ]
    assert without == []


STRUCTURES = {
    "diag_embed": torch.diag_embed,
    "rot90": lambda x: torch.rot90(x[:, :, None] * W[0], 1, (1, 2)),
    "real view of a spectrum": lambda x: torch.view_as_real(torch.fft.rfft(x)),
    "reflection pad": lambda x: F.pad(x[:, None], (1, 1), mode="reflect"),
    "shifted spectrum": lambda x: torch.fft.fftshift(x, dim=1),
    "a complex constant": lambda x: torch.view_as_real(x + torch.arange(x.shape[-1]) * (1 + 2j)).flatten(1),
    "short-time spectrum": lambda x: torch.stft(x, 4, 2, window=torch.ones(4).double(), return_complex=True).real,
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_linear_operations(name):
    x = torch.randn(2, 4, dtype=torch.float64)
    result = decompose(Net(STRUCTURES[name]), x, standard_masks((4,)))
    assert torch.allclose(result.total, Net(STRUCTURES[name])(x).expand_as(result.total), atol=1e-12)
    assert not result.relevant[2].any()
    assert not result.irrelevant[3].any()


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, ids):
        return self.head(self.layer(self.embed(ids)).mean(1))


class Slices(nn.Module):
    """Slices of tokens and of their embeddings."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(3, 3)

    def forward(self, ids):
        x = self.embed(ids[:, 1:])
        return (self.head(x[..., 2:5]) * self.head(x[..., 1::2][..., :3])).sum(1)


class Choices(nn.Module):
    """Entries chosen by their value, which exported programs return as plain tuples."""

    def forward(self, x):
        return (
            torch.cat([x.sort(1)[0][:, :2], x.topk(2)[0], x.max(1)[0][:, None], x.median(1)[0][:, None]], 1) * x.max()
        )


def exported():
    image, row = torch.randn(2, 1, 8, 8).double(), torch.randn(2, 6).double()
    cnn = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip
    mlp = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.LayerNorm(8), nn.Linear(8, 3), nn.Softmax(-1))
    ids = torch.randint(0, 20, (2, 5))
    texts = {"tokens": (Tokens(), ids), "slices": (Slices(), ids)}
    return {"cnn": (cnn, image), "mlp": (mlp, row), "choices": (Choices(), row), **texts}


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("name", ["cnn", "mlp", "choices", "tokens", "slices"])
@pytest.mark.filterwarnings("ignore")
def test_exported_programs(name, decomposed):
    """They call torch.ops.aten's operators, which are the same operations under other names."""
    torch.manual_seed(0)
    model, x = exported()[name]
    model = model.double().eval()
    program = torch.export.export(model, (x,))
    program = (program.run_decompositions() if decomposed else program).module()
    mask = (torch.rand(1, *x.shape[1:], generator=torch.Generator().manual_seed(1)) < 0.5).double()
    ours, theirs = (ContextualDecomposition(net).decompose(x, mask) for net in (program, model))
    assert torch.allclose(ours.relevant, theirs.relevant, atol=1e-12)
    assert torch.allclose(ours.irrelevant, theirs.irrelevant, atol=1e-12)

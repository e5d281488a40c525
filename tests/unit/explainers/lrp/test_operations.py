"""Operations as models write them: keywords, in place, on views, fused, complex, exported, under vmap."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit.core.errors import NonFiniteError
from xaikit.explainers.lrp import AttnLRP, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.testing import directional_derivative_error
from xaikit.torch_ops import KINDS, Kind

VARIANTS = (LRPUniformEpsilon, LRPEpsilonPlus, LRPEpsilonGammaBox, LRPEpsilonAlpha2Beta1, AttnLRP)


class Net(nn.Module):
    """A linear layer, a step of the test's own, a linear head of the step's width; without biases."""

    def __init__(self, step, width=None):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.step = nn.Linear(4, 6, bias=False), step
        width = step(torch.rand(1, 6)).flatten(1).shape[1] if width is None else width
        self.head = nn.Linear(width, 3, bias=False)
        self.double()

    def forward(self, x):
        return self.head(self.step(self.first(x)).flatten(1))


def written(x, index, value):
    x[index] = value
    return x


def after(x, *writes):
    for write in writes:
        write(x)
    return x


def constant(*shape):
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


LEFT = (slice(None), slice(0, 2))
STEPS = {
    "lerp": lambda h: torch.lerp(h, end=h * 2, weight=h.sigmoid()),
    "lerp in place": lambda h: (h + 0).lerp_(h * 2, 0.3),
    "addcmul": lambda h: torch.addcmul(h, tensor1=h, tensor2=h.sigmoid(), value=0.5),
    "addcdiv": lambda h: torch.addcdiv(h, h, h.norm(dim=1, keepdim=True)),
    "baddbmm": lambda h: torch.baddbmm(h.view(-1, 3, 2), batch2=h.view(-1, 2, 3)[..., :2], batch1=h.view(-1, 3, 2)),
    "slices after sigmoid and exp": lambda h: written(
        written(h.clone(), LEFT, h[:, :2].sigmoid()), (slice(None), 2), h[:, 2].exp()
    ),
    "sigmoid of a part of itself": lambda h: after(h * 1, lambda o: written(o, LEFT, torch.sigmoid(o[LEFT]))),
    "ReLU on a view": lambda h: after(h * 1, lambda o: o[:, :3].relu_()),
    "scaled through another view": lambda h: after(h * 1, lambda o: o.view(-1).mul_(3)),
    "into a buffer's views": lambda h: after(torch.zeros(h.shape).to(h), lambda b: b[:, :3].copy_(h[:, 3:])),
    "scatter": lambda h: torch.zeros(len(h), 8).to(h).scatter_(1, torch.arange(6).expand(len(h), 6), h),
    "index_put": lambda h: torch.zeros(len(h), 6).to(h).index_put_((torch.arange(len(h))[:, None], torch.arange(6)), h),
    "in-place activation": lambda h: F.hardswish(h * 1, inplace=True),
    "cosine similarity": lambda h: F.cosine_similarity(h, h.flip(1)).unsqueeze(1),
    "bilinear": lambda h: F.bilinear(h, h.flip(1), torch.arange(72).view(2, 6, 6).to(h) / 72),
    "grid_sample": lambda h: F.grid_sample(
        h.view(-1, 1, 2, 3), torch.zeros(len(h), 2, 2, 2).to(h), align_corners=False
    ),
    "a grid that depends on the input": lambda h: F.grid_sample(
        h.view(-1, 1, 2, 3), 0.1 * h[:, :4].reshape(-1, 2, 1, 2), align_corners=False
    ),
    "einsum of a list": lambda h: torch.einsum("bi,bj->bij", [h, h]),
    "multi_dot": lambda h: torch.linalg.multi_dot([h, torch.ones(6, 4).to(h), torch.ones(4, 3).to(h)]),
    "kron": lambda h: torch.stack([torch.kron(v, v) for v in h]),
    "cross": lambda h: torch.linalg.cross(h[:, :3], h[:, 3:]),
    "solve": lambda h: torch.linalg.solve(2 * torch.eye(6).to(h), h.T).T,
    "inverse": lambda h: torch.linalg.inv(h[:, :4].reshape(-1, 2, 2)) @ h[:, 2:4, None],
    "product of entries": lambda h: h.prod(1, keepdim=True),
    "cumulative product": lambda h: h.cumprod(1),
    "determinant": lambda h: torch.linalg.det(h[:, :4].reshape(-1, 2, 2)).unsqueeze(1),
    "variance": lambda h: h.var(1, keepdim=True),
    "power of a constant": lambda h: 2.0**h,
    "constants divided": lambda h: h * (1 / (1 + h.abs())),
    "clamp by keyword": lambda h: torch.clamp(h, max=0.4),
    "FFT": lambda h: torch.fft.fft(h).real,
    "spectrum": lambda h: torch.fft.rfft(h).abs(),
    "phase and size": lambda h: torch.polar(torch.fft.fft(h).abs(), torch.fft.fft(h).angle()).real,
    "complex product": lambda h: (torch.complex(h, 0.5 * h) * torch.complex(h.flip(1), h)).real,
    "rotary positions": lambda h: torch.view_as_real(
        torch.view_as_complex(h.view(-1, 3, 2)) * torch.polar(torch.ones(3).to(h), torch.arange(3).to(h))
    ),
    "vmap": torch.vmap(lambda v: torch.tanh(v) * v.sum()),
    "vmap along another dimension": torch.vmap(lambda v: F.gelu(v) * 2, in_dims=1, out_dims=1),
    "checkpoint": lambda h: torch.utils.checkpoint.checkpoint(lambda v: torch.tanh(v) * v, h, use_reentrant=False),
}  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_relevance_is_conserved_and_explain_agrees(step):
    net, x = Net(STEPS[step]), torch.randn(3, 4, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for variant in (LRPUniformEpsilon, AttnLRP):
            explainer = variant(net, epsilon=1e-10)
            explained = explainer.explain(x, 1)
            torch.testing.assert_close(explained.scores, net(x)[:, 1].detach())
            torch.testing.assert_close(explained.values, explainer.attribute(x, 1), rtol=1e-9, atol=1e-12)
            assert (explained.gap < 1e-5 * explained.scores.abs().max()).all()


@pytest.mark.parametrize(
    "step", ["lerp", "slices after sigmoid and exp", "ReLU on a view", "cumulative product", "complex product", "vmap"]
)
def test_derivatives_with_respect_to_the_weights(step):
    net, x = Net(STEPS[step]), torch.randn(3, 4, dtype=torch.float64)
    assert directional_derivative_error(LRPUniformEpsilon(net, epsilon=1e-2), x, torch.tensor([0, 1, 2])) < 1e-5


class Mixed(nn.Module):
    """A convolution, an operation under test, BatchNorm, and a head."""

    def __init__(self, between, norm_first=False):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.head = nn.Conv1d(1, 4, 3), nn.BatchNorm1d(4), nn.Linear(24, 3)
        self.between = between
        nn.init.normal_(self.norm.running_mean, 0, 0.3)
        nn.init.normal_(self.norm.bias, 0, 0.3)
        self.double().eval()

    def forward(self, x):
        return self.head(torch.relu(self.norm(self.between(self.conv(x)))).flatten(1))


UNCHANGED = {
    "contiguous": lambda h: h.contiguous(), "double": lambda h: h.double(), "to": lambda h: h.to("cpu", torch.float64),
    "clone": torch.clone, "dropout": lambda h: F.dropout(h, 0.5, training=False), "view": lambda h: h.view(h.shape),
    "type_as": lambda h: h.type_as(h), "an empty write": lambda h: after(h, lambda o: o.detach()),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("between", UNCHANGED)
def test_what_changes_nothing_keeps_the_fold(between, variant):
    x = torch.rand(2, 1, 8, dtype=torch.float64)
    truth = variant(Mixed(lambda h: h)).attribute(x, 0)
    for method in ("attribute", "explain"):
        result = getattr(variant(Mixed(UNCHANGED[between])), method)(x, 0)
        torch.testing.assert_close(getattr(result, "values", result) if method == "explain" else result, truth)


CHANGED = {
    "ReLU": (lambda h: after(h, lambda o: o[:, :2].relu_()), lambda h: torch.cat([h[:, :2].relu(), h[:, 2:]], 1)),
    "zeros": (lambda h: after(h, lambda o: o[:, 0].zero_()), lambda h: h * torch.tensor([[0.0], [1], [1], [1]])),
    "scaled": (lambda h: after(h, lambda o: o.view(-1).mul_(2)), lambda h: h * 2),
    "a view of a view": (
        lambda h: after(h, lambda o: o[:, 1:][:, :2].neg_()),
        lambda h: h * torch.tensor([[1], [-1], [-1], [1]]),
    ),
    "dropout that is on": (lambda h: F.dropout(h, 1e-9, training=True), lambda h: h * 1),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("change", CHANGED)
def test_a_batch_norm_is_not_folded_into_what_was_changed_since(change, variant):
    x = torch.rand(2, 1, 8, dtype=torch.float64)
    in_place, apart = (Mixed(between) for between in CHANGED[change])
    truth = variant(apart).attribute(x, 0)
    explained = variant(in_place).explain(x, 0)
    torch.testing.assert_close(explained.scores, in_place(x)[:, 0].detach())
    torch.testing.assert_close(explained.values, truth, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(variant(in_place).attribute(x, 0), truth, rtol=1e-6, atol=1e-9)


def test_a_softmax_that_was_cut_is_no_softmax():
    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 5)

        def forward(self, x):
            p = self.first(x).softmax(-1)
            p[:, 1:3].zero_()
            return p

    assert not LRPUniformEpsilon(Cut()).attribute(torch.randn(2, 4), 1).any()


def test_logits_that_were_written_over_are_not_explained():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 3)

        def forward(self, x):
            logits = self.first(x) * 1
            p = logits.softmax(-1)
            logits.zero_()
            return p

    x = torch.randn(2, 4)
    net = Reused()
    explained = LRPUniformEpsilon(net).explain(x, 1)
    torch.testing.assert_close(explained.scores, net(x)[:, 1].detach())


@pytest.mark.parametrize(
    "write", [lambda x: x.mul_(2.0), lambda x: x[:, :2].zero_(), lambda x: x.sub_(x.mean(1, keepdim=True))]
)
def test_a_model_may_write_into_its_input(write):
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(4, 3, bias=False)

        def forward(self, x):
            write(x)
            return self.first(x)

    x = torch.randn(2, 4)
    before, net = x.clone(), Writing()
    relevance = LRPUniformEpsilon(net, epsilon=1e-9).attribute(x, 0)
    assert torch.equal(x, before)
    torch.testing.assert_close(relevance.sum(1), net(x)[:, 0].detach(), rtol=1e-4, atol=1e-5)


def test_dropout_straight_behind_an_unexplained_embedding():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.drop, self.head = nn.Embedding(20, 8), nn.Dropout(0.3), nn.Linear(8, 2)

        def forward(self, ids):
            return self.head(self.drop(self.embedding(ids)).add_(1).relu_().mean(1))

    net, ids = Reader(), torch.tensor([[3, 7, 9]])
    for layer in ("embedding", "drop", ["embedding", "drop"]):
        explainer = AttnLRP(net, layer=layer)
        values, alone = explainer.explain(ids, 1).values, explainer.attribute(ids, 1)
        for a, b in zip(*(v if isinstance(v, tuple) else (v,) for v in (values, alone)), strict=True):
            torch.testing.assert_close(a, b)


def test_an_ensemble_under_vmap():
    torch.manual_seed(0)
    members = [nn.Linear(6, 4).double() for _ in range(3)]
    parameters, _ = torch.func.stack_module_state(members)
    parameters = {name: p.detach() for name, p in parameters.items()}

    def run(member, h):
        return torch.func.functional_call(members[0], member, (h,))

    mapped = Net(lambda h: torch.vmap(run, (0, None))(parameters, h).mean(0), width=4)
    looped = Net(lambda h: torch.stack([m(h) for m in members]).mean(0), width=4)
    x = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(LRPUniformEpsilon(mapped).attribute(x, 1), LRPUniformEpsilon(looped).attribute(x, 1))


def test_books_of_function_targets():
    net, x = Net(torch.tanh), torch.randn(3, 4, dtype=torch.float64)
    explainer = LRPUniformEpsilon(net)
    by_class, by_function = explainer.explain(x, 1), explainer.explain(x, lambda output: output[:, 1])
    torch.testing.assert_close(by_function.gap, by_class.gap)
    assert by_function.absorbed == pytest.approx(by_class.absorbed)
    assert by_function.lost == by_class.lost == {}


def test_a_target_function_that_loses_relevance_is_named():
    with pytest.warns(UserWarning, match="lost in the target function"):
        explained = LRPUniformEpsilon(Net(torch.tanh)).explain(torch.randn(3, 4).double(), lambda o: o[:, 1].square())
    assert list(explained.lost) == ["the target function"]


def test_an_operation_without_a_kind_is_named_for_function_targets_too():
    explainer = LRPUniformEpsilon(Net(lambda h: torch.atan2(h, h.flip(1))))
    with pytest.warns(UserWarning, match=r"no rule for: atan2 \(in Net\)"):
        explainer.attribute(torch.randn(3, 4).double(), lambda output: output[:, 1])
    unruled, lost = (pytest.warns(UserWarning, match=f"{words} atan2") for words in ("no rule for:", "lost in"))
    with unruled, lost:
        assert list(explainer.explain(torch.randn(3, 4).double(), lambda output: output[:, 1]).lost) == ["atan2 (Net)"]


def test_two_signals_in_one_elementwise_operation_have_no_rule():
    with pytest.warns(UserWarning, match=r"no rule for: pow \(in Net\)"):
        LRPUniformEpsilon(Net(lambda h: h.abs() ** h)).attribute(torch.randn(3, 4).double(), 1)


def test_nan_that_the_model_computes_in_a_view_is_named():
    with pytest.raises(NonFiniteError, match="the model itself computes NaN in log_"):
        LRPUniformEpsilon(Net(lambda h: after(h * 1, lambda o: o[:, :3].sub_(9).log_()))).attribute(
            torch.randn(3, 4).double(), 1
        )


def test_rows_that_see_nothing_get_nothing():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.query = nn.Linear(4, 4)

        def forward(self, x, keep):
            x = self.query(x)
            y = F.scaled_dot_product_attention(x, x, x, attn_mask=keep[:, None, :] & keep[:, :, None])
            return (y * keep[..., None]).sum(1)

    x, keep = torch.randn(2, 5, 4), torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]).bool()
    split = {"forward_arg_extractor": lambda b: b[0], "additional_forward_arg_extractor": lambda b: b[1]}
    for variant in (AttnLRP, LRPUniformEpsilon):
        explainer = variant(Own(), **split)
        relevance = explainer.explain((x, keep), 1).values
        assert not relevance[0, :2].any()
        torch.testing.assert_close(relevance[:1, 2:], explainer.attribute((x[:1, 2:], keep[:1, 2:]), 1))


OUT_OF_DOMAIN = {"acosh", "zeta", "gumbel_softmax"}  # no finite or no repeatable values for numbers in [0, 1]
ZERO_THERE = {"softshrink", "hardshrink", "angle", "xlogy"}
BY_ENTRY = sorted(
    name
    for name, kind in KINDS.items()
    if kind in (Kind.ELEMENTWISE, Kind.GATE, Kind.SOFTMAX, Kind.SELECTION) and name not in OUT_OF_DOMAIN | ZERO_THERE
)


def function_named(name):
    spaces = (torch, F, torch.special, torch.linalg)
    return next((getattr(space, name) for space in spaces if hasattr(space, name)), None)


def one_row(function, h):
    """The function's values as one tensor of as many entries, whatever it returns."""
    try:
        y = function(h)
    except TypeError:
        y = function(h, 1)
    y = y[0] if isinstance(y, (tuple, list)) else y
    return y if y.shape == h.shape else y.reshape(len(h) if y.ndim > 1 else 1, -1)[:, :1].expand(h.shape)


@pytest.mark.filterwarnings("ignore")
def test_all_of_torchs_functions_of_one_tensor_conserve():
    x, tried, wrong = torch.randn(3, 4, dtype=torch.float64), 0, {}
    for name in BY_ENTRY:
        function = function_named(name)
        try:
            net = Net(lambda h, function=function: one_row(function, torch.sigmoid(h) * 0.8), width=6)
            score = net(x)[:, 1].detach()
        except Exception:  # noqa: BLE001, S112  (it takes other arguments than one tensor)
            continue
        try:
            relevance = LRPUniformEpsilon(net, epsilon=1e-12).attribute(x, 1)
        except RuntimeError as err:
            if "derivative for" in str(err) and "is not implemented" in str(err):  # as torch 2.6 says of aminmax
                continue
            raise
        tried += 1
        wrong[name] = float((relevance.sum() - score.sum()).abs() / score.abs().max())
    assert tried > 90
    assert {name: gap for name, gap in wrong.items() if not gap < 1e-3} == {}

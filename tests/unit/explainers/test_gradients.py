"""Gradient, SmoothGrad, VarGrad, integrated gradients: closed forms, peers on the same input, exact derivatives."""

from __future__ import annotations

import pytest
import torch
from captum import attr as captum
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaikit.core import EXPLAINERS, rows
from xaikit.core.errors import InvalidInputError
from xaikit.explainers import FullGrad, Gradient, IntegratedGradients, SmoothGrad, VarGrad
from xaikit.explainers.cam.base import ActivationMap
from xaikit.explainers.integrated_gradients import quadrature
from xaikit.explainers.noise import NoiseStream
from xaikit.explainers.shapley.explainers import Shapley
from xaikit.explainers.smoothgrad import Running
from xaikit.testing import derivative_error


class Residual(nn.Module):
    """Convolution, BatchNorm with statistics of its own, residual add."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.fc = nn.Linear(4, 3)
        for bn in (self.bn1, self.bn2):
            bn.running_mean.normal_(0, 0.2)
            bn.running_var.uniform_(0.5, 1.5)

    def forward(self, x):
        h = self.relu1(self.bn1(self.conv1(x)))
        h = self.relu3(self.relu2(self.bn2(self.conv2(h))) + h)
        return self.fc(h.mean((2, 3)))


def nets():
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    conv1d = nn.Sequential(
        nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AvgPool1d(2), nn.Conv1d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    ).double()
    y = torch.tensor([0, 2])
    return {
        "mlp": (mlp, torch.randn(2, 6).double(), y),
        "residual": (Residual().double(), torch.randn(2, 2, 5, 5).double(), y),
        "conv1d": (conv1d, torch.randn(2, 2, 14).double(), y),
    }


DIFFERENTIABLE = [n for n in EXPLAINERS if EXPLAINERS.get(n).DIFFERENTIABLE]
# Class activation maps are maps over positions, of which a table has none.
ON_A_TABLE = [n for n in DIFFERENTIABLE if not issubclass(EXPLAINERS.get(n), (ActivationMap, FullGrad))]


@pytest.mark.parametrize(
    ("name", "net"),
    [*((n, "mlp") for n in ON_A_TABLE), *((n, m) for n in DIFFERENTIABLE for m in ("residual", "conv1d"))],
)
def test_derivative_of_a_penalty_is_exact(name, net):
    model, x, y = nets()[net]
    fewer = {"n_segments": 6 if net == "mlp" else 4} if issubclass(EXPLAINERS.get(name), Shapley) else {}  # passes
    assert derivative_error(EXPLAINERS.create(name, **fewer).bind(model), x, y) < 1e-5


@pytest.fixture
def cnn():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(144, 3)).double().eval()


@pytest.fixture
def x():
    return torch.rand(3, 1, 8, 8, dtype=torch.float64)


def test_gradient_against_captum(cnn, x):
    expected = captum.Saliency(cnn).attribute(x.clone().requires_grad_(), target=1, abs=False)
    assert torch.allclose(Gradient(cnn).attribute(x, 1), expected)


@pytest.mark.parametrize(("ours", "theirs"), [("gausslegendre", "gausslegendre"), ("trapezoid", "riemann_trapezoid")])
def test_integrated_gradients_against_captum(cnn, x, ours, theirs):
    expected = captum.IntegratedGradients(cnn).attribute(x, baselines=0.3, target=1, n_steps=20, method=theirs)
    found = IntegratedGradients(cnn, n_steps=20, baseline=0.3, method=ours).attribute(x, 1)
    # captum's trapezoid weighs the inner points 1/n, so that the weights sum to (n - 1)/n; its points are float32.
    expected = expected * (20 / 19 if ours == "trapezoid" else 1)
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.nightly
@pytest.mark.parametrize(("ours", "theirs"), [(SmoothGrad, "smoothgrad"), (VarGrad, "vargrad")])
def test_noise_against_captum_at_many_copies(cnn, x, ours, theirs):
    x = x[:1]
    spread = float(x.max() - x.min())
    tunnel = captum.NoiseTunnel(captum.Saliency(cnn))
    expected = tunnel.attribute(
        x, nt_type=theirs, nt_samples=20_000, nt_samples_batch_size=500, stdevs=0.2 * spread, target=1, abs=False
    )
    found = ours(cnn, noise_level=0.2, n_iter=20_000).attribute(x, 1)
    assert float((found - expected).norm() / expected.norm()) < 0.05


@settings(max_examples=20, deadline=None)
@given(copies=st.integers(1, 40), noise=st.sampled_from(["gaussian", "antithetic", "sobol"]), seed=st.integers(0, 9))
def test_vargrad_is_never_negative_and_zero_for_a_linear_model(copies, noise, seed):
    x = torch.rand(2, 5)
    linear = nn.Linear(5, 2)
    moments = VarGrad(linear, n_iter=copies, noise=noise).moments(x, 1, seed=seed)
    assert not moments.variance.any()
    assert torch.equal(moments.mean, linear.weight[1].expand(2, 5))
    curved = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
    assert float(VarGrad(curved, n_iter=copies, noise=noise).attribute(x, 0, seed=seed).min()) >= 0


def test_mean_and_variance_of_the_same_copies(cnn, x):
    """One pass gives both maps, and they are the plain mean and variance over the copies."""
    n, level = 7, 0.3
    spread = (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True)) * level
    for noise in ("gaussian", "antithetic", "sobol"):
        (draws,) = NoiseStream(noise, [x.shape[1:]], 0).draw(n)
        grads = torch.stack([Gradient(cnn).attribute(x + spread * z, 2) for z in draws.double()])
        moments = VarGrad(cnn, n_iter=n, noise_level=level, noise=noise).moments(x, 2)
        assert torch.allclose(moments.mean, grads.mean(0))
        assert torch.allclose(moments.variance, grads.var(0, unbiased=False))
        assert torch.equal(moments.variance, VarGrad(cnn, n_iter=n, noise_level=level, noise=noise).attribute(x, 2))


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), offset=st.floats(-1e6, 1e6))
def test_running_moments_in_any_blocks(sizes, offset):
    values = torch.randn(sum(sizes), 3, dtype=torch.float64) + offset
    running = Running()
    for block in values.split(sizes):
        running.add(block)
    assert torch.allclose(running.mean, values.mean(0))
    assert torch.allclose(running.variance, values.var(0, unbiased=False), rtol=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "antithetic", "sobol"])
def test_noise_does_not_depend_on_the_blocks(kind):
    shapes = [torch.Size([3, 4]), torch.Size([2])]
    whole = NoiseStream(kind, shapes, 5).draw(9)
    stream = NoiseStream(kind, shapes, 5)
    for _ in range(2):
        stream.restart()
        parts = [stream.draw(k) for k in (1, 4, 2, 2)]
        for i in range(2):
            assert torch.equal(torch.cat([p[i] for p in parts]), whole[i])
    if kind == "antithetic":
        assert torch.equal(whole[0][0], -whole[0][1])


def test_sobol_noise_beyond_its_dimensions_is_standard_normal():
    (z,) = NoiseStream("sobol", [torch.Size([30_000])], 0).draw(64)
    assert abs(float(z.mean())) < 0.01
    assert abs(float(z.std()) - 1) < 0.01


def test_a_baseline_for_each_sample_follows_it_through_chunks(cnn, x):
    baseline = torch.rand_like(x)
    whole = IntegratedGradients(cnn, baseline=baseline, n_steps=5).attribute(x, 1)
    cut = IntegratedGradients(cnn, baseline=baseline, n_steps=5, max_rows=1).attribute(x, 1)
    alone = IntegratedGradients(cnn, baseline=baseline[2:], n_steps=5).attribute(x[2:], 1)
    assert torch.allclose(whole, cut)
    assert torch.allclose(whole[2:], alone)


def test_quadrature_is_exact_where_it_promises():
    for method, degree in (("gausslegendre", 9), ("trapezoid", 1)):
        t, w = quadrature(method, 5)
        for k in range(degree + 1):
            assert float((w * t**k).sum()) == pytest.approx(1 / (k + 1), abs=1e-12)
    assert quadrature("trapezoid", 1)[0].tolist() == [0.5]


def test_passes_are_bounded_and_even(cnn, x):
    seen = []
    cnn[0].register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))
    SmoothGrad(cnn, n_iter=10, max_rows=9).attribute(x, 0)  # the first call finds out how rows may be stacked
    assert max(seen) <= 9
    seen.clear()
    SmoothGrad(cnn, n_iter=10, max_rows=9).attribute(x, 0)
    assert seen == [6, 9, 6, 9]
    seen.clear()
    SmoothGrad(cnn, n_iter=4, max_rows=2).attribute(x, 0)
    assert max(seen) <= 2
    assert sum(seen) == 12
    with pytest.raises(InvalidInputError, match="max_rows must be >= 1"):
        SmoothGrad(cnn, max_rows=0)


def test_rows_are_chosen_by_the_size_of_a_sample():
    assert rows.rows_per_pass((torch.zeros(1, 1, 28, 28),)) == rows.CPU_ROWS
    assert rows.LEAST_ROWS <= rows.rows_per_pass((torch.zeros(1, 3, 64, 64),)) < rows.CPU_ROWS
    assert rows.rows_per_pass((torch.zeros(1, 3, 1024, 1024),)) == rows.LEAST_ROWS
    assert rows.even_ranges(10, 4) == [range(3), range(3, 6), range(6, 10)]

"""The equivalences of docs/coming-from.md, each computed with both libraries."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from xaikit import (
    CaptumExplainer,
    Entropy,
    GradCam,
    Gradient,
    GradientXInput,
    IntegratedGradients,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    MaxSensitivity,
    SmoothGrad,
    VarGrad,
)
from xaikit.core.torchvision_ops import import_torchvision

captum = pytest.importorskip("captum.attr")
pytestmark = pytest.mark.filterwarnings("ignore")  # of the other libraries


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)]
    return nn.Sequential(*layers).double().eval()


X = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Y = torch.tensor([0, 1, 2, 1])
BASELINE = torch.full_like(X[:1], 0.3)


def close(ours: torch.Tensor, theirs: torch.Tensor, relative: float = 1e-6) -> bool:
    return float((ours - theirs).abs().max()) <= relative * float(theirs.abs().max())


def test_gradients_and_their_product_with_the_input(model: nn.Module) -> None:
    assert close(Gradient(model).attribute(X, Y).abs(), captum.Saliency(model).attribute(X, target=Y))
    assert close(GradientXInput(model).attribute(X, Y), captum.InputXGradient(model).attribute(X, target=Y))


def test_integrated_gradients_at_the_input(model: nn.Module) -> None:
    theirs = captum.IntegratedGradients(model).attribute(X, baselines=BASELINE, target=Y, n_steps=50)
    assert close(IntegratedGradients(model, baseline=BASELINE[0], n_steps=50).attribute(X, Y), theirs)


def test_a_baseline_at_the_layer_is_what_the_layer_returns_for_one_of_the_input(model: nn.Module) -> None:
    layered = captum.LayerIntegratedGradients(model, model[1])  # type: ignore[index]
    theirs = layered.attribute(X, baselines=BASELINE, target=Y, n_steps=50)
    at_layer = model[:2](BASELINE)[0].detach()  # type: ignore[index]
    assert close(IntegratedGradients(model, layer="1", baseline=at_layer, n_steps=50).attribute(X, Y), theirs)
    defaults = IntegratedGradients(model, layer="1", n_steps=50).attribute(X, Y)
    assert not close(defaults, layered.attribute(X, target=Y, n_steps=50), 0.1)


def test_class_activation_maps(model: nn.Module) -> None:
    layer = captum.LayerGradCam(model, model[2])  # type: ignore[index]
    assert close(GradCam(model, layer="2").attribute(X, Y), layer.attribute(X, target=Y, relu_attributions=True))
    assert not close(GradCam(model, layer="2").attribute(X, Y), layer.attribute(X, target=Y), 0.1)
    guided = captum.GuidedGradCam(model, model[2]).attribute(X, target=Y)  # type: ignore[index]
    assert close(CaptumExplainer("GuidedGradCam").bind(model).attribute(X, Y), guided)


@pytest.mark.parametrize(("kind", "ours", "near"), [("smoothgrad", SmoothGrad, 0.03), ("vargrad", VarGrad, 0.15)])
def test_noise_tunnels(model: nn.Module, kind: str, ours: type[SmoothGrad] | type[VarGrad], near: float) -> None:
    """Up to the draws: 3,000 each."""
    torch.manual_seed(0)
    x, y = X[:1], Y[:1]
    tunnel, spread = captum.NoiseTunnel(captum.Saliency(model)), 0.1 * float(x.max() - x.min())
    options = {"nt_type": kind, "nt_samples": 3000, "stdevs": spread, "target": y}
    mine = ours(model, n_iter=3000, noise_level=0.1).attribute(x, y)
    assert close(mine, tunnel.attribute(x, abs=False, **options), near)
    assert not close(mine, tunnel.attribute(x, **options), 2 * near)  # captum's default averages sizes


def test_sensitivity_is_the_largest_relative_change(model: nn.Module) -> None:
    """By hand, from many draws of its own: the same distribution of the maximum's size."""
    value = MaxSensitivity(radius=0.2, n_iter=200).evaluate(GradientXInput(model), X, Y)
    generator, plain = torch.Generator().manual_seed(0), GradientXInput(model).attribute(X, Y)
    changes = []
    for _ in range(200):
        moved = X + 0.2 * (2 * torch.rand(X.shape, generator=generator, dtype=torch.float64) - 1)
        change = (GradientXInput(model).attribute(moved, Y) - plain).flatten(1).norm(dim=1)
        changes.append(change / plain.flatten(1).norm(dim=1))
    assert close(value, torch.stack(changes).amax(0), 0.25)


def test_the_entropy_of_shares_is_not_that_of_a_histogram() -> None:
    values = torch.tensor([[0.1, 0.1, 0.1, 0.1, 4.0]])
    linear = nn.Linear(5, 1)
    shares = (values / values.sum()).numpy()[0]
    ours = float(Entropy().evaluate(Gradient(linear), torch.rand(1, 5), None, values))
    assert ours == pytest.approx(stats.entropy(shares), rel=1e-5)
    histogram, _ = np.histogram(values[0], bins=10)
    assert abs(ours - stats.entropy(histogram / histogram.sum())) > 0.05


@pytest.mark.parametrize("name", ["EpsilonPlus", "EpsilonGammaBox"])
def test_composites_of_zennit(model: nn.Module, name: str) -> None:
    import_torchvision()
    composites, attribution = pytest.importorskip("zennit.composites"), pytest.importorskip("zennit.attribution")
    settings = {"low": -3.0, "high": 3.0} if name == "EpsilonGammaBox" else {}
    composite = getattr(composites, name)(**settings)
    ours = {"EpsilonPlus": LRPEpsilonPlus, "EpsilonGammaBox": LRPEpsilonGammaBox}[name](model, **settings)
    with attribution.Gradient(model, composite) as attributor:
        scores = model(X).detach()
        seed = torch.nn.functional.one_hot(Y, 3) * scores
        _, theirs = attributor(X.clone(), seed)
    mine = ours.attribute(X, Y)
    assert close(mine, theirs, 1e-5)

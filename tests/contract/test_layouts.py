"""Series (N, T, D) and images (N, H, W, C) are explained by default as the same data with their channels first."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from xaikit import METRICS, GradientXInput
from xaikit.core import EXPLAINERS
from xaikit.core.channel_axes import series_axis
from xaikit.core.errors import InvalidInputError, XaikitError
from xaikit.explainers.cam.base import ActivationMap
from xaikit.explainers.cam.full_grad import FullGrad
from xaikit.factors.facts import DataFacts


class Recurrent(nn.Module):
    """Reads (N, T, D)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gru, self.head = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.gru(x)[0].mean(1))


class Swapped(nn.Module):
    """Takes the channels where the model inside does not have them."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def forward(self, x):
        return self.inside(x.movedim(-1, 1) if x.ndim == 4 else x.transpose(1, 2))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))


def forms(kind):
    """Two models with the same data for each, and how to bring the second one's attributions to the first's form."""
    generator = torch.Generator().manual_seed(0)
    if kind == "series":
        x = torch.randn(2, 20, 3, generator=generator)
        return Swapped(Recurrent()), x.transpose(1, 2).contiguous(), Recurrent(), x, lambda a: a.transpose(1, 2)
    x = torch.rand(2, 3, 8, 8, generator=generator)
    return net(), x, Swapped(net()), x.movedim(1, -1).contiguous(), lambda a: a.movedim(-1, 1)


# They draw noise in the form of the data, or measure the computer.
RANDOM = (
    "seconds", "peak_memory", "avg_sensitivity", "max_sensitivity", "local_lipschitz", "monotonicity_nguyen",
    "smooth_mprt",
    "relative_input_stability", "relative_output_stability", "relative_representation_stability",
)  # fmt: skip
Y = torch.tensor([0, 1])


DRAWN = (
    "smoothgrad",
    "vargrad",
    "captum.noise_tunnel",
    "captum.kernel_shap",
    "captum.lime",
    "kernel_shapley",
    "permutation_shapley",
    "captum.shapley_value_sampling",
    "captum.gradient_shap",
)
MAPS = [
    name
    for name in EXPLAINERS
    if issubclass(EXPLAINERS.get(name), (ActivationMap, FullGrad)) or name == "guided_gradcam"
]


def by_default(name, model, x, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return EXPLAINERS.get(name)(model, **settings).attribute(x, Y, seed=0)


@pytest.mark.parametrize("kind", ["series", "images"])
@pytest.mark.parametrize("name", EXPLAINERS)
def test_the_order_of_the_axes_changes_nothing(name, kind):
    first, x, last, y, turned = forms(kind)
    try:
        expected = by_default(name, first, x)
    except XaikitError:
        return  # not for such data
    if name in MAPS and kind == "images":
        with pytest.raises(InvalidInputError, match=r"have their channels last; wrap the model"):
            by_default(name, last, y)
        return
    actual = turned(by_default(name, last, y))
    if name in DRAWN:  # other draws, so another estimate
        assert torch.isfinite(actual).all()
        assert torch.nn.functional.cosine_similarity(actual.flatten(), expected.flatten(), dim=0) > 0.5
        return
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["series", "images"])
@pytest.mark.parametrize("baseline", ["blur", "mean"])
def test_baselines(baseline, kind):
    first, x, last, y, turned = forms(kind)
    expected = by_default("integrated_gradients", first, x, baseline=baseline)
    actual = turned(by_default("integrated_gradients", last, y, baseline=baseline))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["series", "images"])
@pytest.mark.parametrize("name", [n for n in METRICS if n not in RANDOM])
def test_metrics(name, kind):
    first, x, last, y, turned = forms(kind)
    values = []
    for model, data in ((first, x), (last, y)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values.append(METRICS.get(name)().evaluate(GradientXInput(model), data, Y, seed=0))
        except XaikitError as error:
            values.append(type(error))
    if isinstance(values[0], type):
        assert values[1] is values[0]
    else:
        torch.testing.assert_close(values[1], values[0], rtol=1e-4, atol=1e-5, equal_nan=True)


def test_the_first_convolution_tells_before_the_form():
    """Six sensors by time by three axes look like pictures with their channels last."""
    x = torch.rand(2, 6, 20, 3, generator=torch.Generator().manual_seed(0))
    net = nn.Sequential(nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(240, 2))
    assert EXPLAINERS.get("gradcam")(net).attribute(x, Y).shape == x.shape
    assert DataFacts.of(x, model=net).channel_axis == 1
    assert DataFacts.of(x).channel_axis == 3


def test_a_layer_is_not_the_input():
    net = nn.Sequential(nn.Conv1d(1, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 2))
    x = torch.randn(2, 1, 12, generator=torch.Generator().manual_seed(0))
    at_layer = EXPLAINERS.get("integrated_gradients")(net, layer="2", baseline="blur").attribute(x, Y)
    assert not at_layer.any()  # (N, 6, 1): one place, which is its own blur


def test_a_first_layer_whose_weight_is_parametrised_tells_the_channels():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.utils.parametrizations.weight_norm(model[0])
    assert series_axis(torch.rand(2, 20, 3), model) == -1

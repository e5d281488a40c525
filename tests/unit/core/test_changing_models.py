"""Models that are another function later: as their weights change, on other values, without gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS
from xaikit.core.errors import UnsupportedOperationError
from xaikit.core.rows import RememberedRule, RowRule, weights_age
from xaikit.explainers import GradCam, Gradient, IntegratedGradients


class SeesOthers(nn.Module):
    """Rows see each other, behind a last layer or a gate that begins at 0."""

    def __init__(self, *, gated):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.o, self.gate = nn.Linear(4, 4), nn.Linear(4, 3), nn.Parameter(torch.ones(()))
        nn.init.zeros_(self.gate if gated else self.o.weight)

    def forward(self, x):
        return self.o(torch.tanh(self.a(x + self.gate * (-torch.cdist(x, x)).softmax(1) @ x)))


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("name", ["captum.feature_ablation", "permutation_shapley", "smoothgrad"])
def test_rows_are_asked_about_again_when_weights_have_changed(name, gated):
    model, x = SeesOthers(gated=gated).eval(), torch.randn(5, 4)
    explainer = EXPLAINERS.create(name).bind(model)
    explainer.attribute(x, 1)
    with torch.no_grad():
        model.o.weight.normal_()
        model.gate.fill_(0.8)
    with pytest.warns(UserWarning, match="rows of this SeesOthers are not independent"):
        later = explainer.attribute(x, 1)
    with pytest.warns(UserWarning, match="not independent"):
        anew = explainer.bind(copy.deepcopy(model)).attribute(x, 1)
    assert torch.equal(later, anew)


def test_a_long_training_asks_a_few_times():
    model, asked = nn.Linear(3, 2), []
    remembered = None
    for step in range(1000):
        age = weights_age([model])
        if remembered is None or remembered.is_stale(age):
            asked.append(step)
            remembered = RememberedRule(RowRule(), age if remembered is None else remembered.first, age)
        with torch.no_grad():
            model.weight.add_(1.0)
            model.bias.add_(1.0)
    assert asked == [0, 1, 8, 64, 512]
    assert not RememberedRule(RowRule(independent=False), 0, 0).is_stale(99)
    assert RememberedRule(RowRule(), 5, 9).is_stale(3)  # other weights


class PaddedMean(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
        self.out = nn.Linear(8, 3)

    def forward(self, x, padding):
        return self.out(self.encoder(x, src_key_padding_mask=padding).mean(1))


@pytest.mark.parametrize("layer", [None, "encoder.layers.0.linear1"])
@pytest.mark.parametrize(
    "name", ["gradient", "integrated_gradients:n_steps=300", "deep_lift", "contextual_decomposition", "owen_shapley"]
)
def test_an_encoder_is_one_function_with_gradients_and_without(name, layer):
    x = torch.randn(4, 7, 8, generator=torch.Generator().manual_seed(1))
    padding = torch.arange(7)[None] >= torch.tensor([3, 7, 2, 5])[:, None]
    model = PaddedMean().eval()
    parts = {"forward_arg_extractor": lambda i: i[0], "additional_forward_arg_extractor": lambda i: i[1]}
    explainer = EXPLAINERS.create(name).set_kwargs(layer=layer, **parts).bind(model)
    assert explainer.attribute((x, padding), 1).isfinite().all()
    if layer is None:
        with torch.enable_grad():
            expected = model(x, padding)[:, 1].detach()
        assert torch.allclose(explainer.explain((x, padding), 1).scores, expected, atol=1e-5)
    assert torch.backends.mha.get_fastpath_enabled()


REACHED = {"big": nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3))}


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.small, self.big = nn.Linear(4, 3), REACHED["big"]

    def forward(self, x):
        return REACHED["big"](x) if x.mean() > 5 else self.small(x)


def test_a_module_that_a_later_branch_reaches_by_another_way_stays_as_it_is():
    explainer = Gradient(Branches())
    explainer.attribute(torch.rand(5, 4), 1)
    explainer.attribute(torch.full((5, 4), 10.0), 1)
    assert not REACHED["big"][0].running_mean.any()
    assert REACHED["big"][0].training


class Force(nn.Module):
    """A force is a derivative, and without gradients the model cannot run."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.energy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()

    def forward(self, x):
        x = x if x.requires_grad else x.requires_grad_()
        return -torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "captum.feature_ablation", "kernel_shapley"])
def test_a_model_that_differentiates_itself(name):
    model, x = Force(), torch.rand(5, 4, dtype=torch.float64)
    result = EXPLAINERS.create(name).bind(model).explain(x, 1)
    assert not x.requires_grad
    expected = model(x.clone())[:, 1].detach()
    assert torch.allclose(result.scores, expected)
    if name == "gradient":
        leaf = x.clone().requires_grad_()
        assert torch.allclose(result.values, torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)[0])
        model.energy.zero_grad()
        Gradient(model).attribute(x, 1, create_graph=True).sum().backward()
        assert model.energy[0].weight.grad.abs().sum() > 0
    if name == "integrated_gradients":
        assert float(result.gap.max()) < 1e-3


def test_deep_lift_refuses_a_model_that_differentiates_itself():
    with pytest.raises(UnsupportedOperationError, match="DeepLIFT has no rules for a derivative"):
        EXPLAINERS.create("deep_lift").bind(Force()).attribute(torch.rand(5, 4, dtype=torch.float64), 1)


def test_weights_that_inference_mode_made():
    with torch.inference_mode():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    x = torch.rand(5, 4)
    with torch.inference_mode():
        expected = model.eval()(x)[:, 1]
    result = IntegratedGradients(model).explain(x, 1)
    assert torch.allclose(result.scores, expected.clone())
    assert float(result.gap.max()) < 1e-5
    assert model[0].weight.is_inference()


class ChannelGate(nn.Module):
    """An ECA block: a convolution over the channels, which ran last."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(nn.Conv2d(3, 64, 3, 2, 1), nn.ReLU())
        self.gate, self.out = nn.Conv1d(1, 1, 3, padding=1, bias=False), nn.Linear(64, 4)

    def forward(self, x):
        h = self.features(x)
        gate = self.gate(h.mean((2, 3))[:, None]).sigmoid().squeeze(1)[..., None, None]
        return self.out((h * gate).mean((2, 3)))


def test_a_convolution_over_channels_makes_no_map():
    model, x = ChannelGate().eval(), torch.rand(2, 3, 16, 16)
    by_name = GradCam(model, target_layer="features.0").attribute(x, 1)
    assert by_name.any()
    assert torch.equal(GradCam(model).attribute(x, 1), by_name)

"""GradCam and GradCam++ against captum, against derivatives of the third order, against finite differences."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import GradCam, GradCamPlusPlus
from xaikit.mitigation import RRR
from xaikit.testing import derivative_error


def network(inplace=False):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace), nn.MaxPool2d(2),
        nn.Conv2d(6, 8, 3), nn.ReLU(inplace), nn.Flatten(), nn.Linear(72, 4),
    ).double().eval()  # fmt: skip


@pytest.fixture
def case():
    return network(), torch.randn(5, 3, 10, 10).double(), torch.tensor([0, 3, 1, 2, 1])


@pytest.mark.parametrize("layer", ["0", "2", "4", "5"])
@pytest.mark.parametrize("upsample", ["linear", "nearest"])
def test_captum_finds_the_same(case, layer, upsample):
    import_torchvision()
    from captum.attr import LayerAttribution, LayerGradCam

    model, x, y = case
    theirs = LayerGradCam(model, model.get_submodule(layer)).attribute(x, y, relu_attributions=True)
    ours = GradCam(model, layer=layer).attribute(x, y)
    assert torch.allclose(ours, theirs.expand_as(ours), rtol=1e-10, atol=1e-14)
    large = LayerAttribution.interpolate(theirs, (10, 10), {"linear": "bilinear"}.get(upsample, upsample))
    ours = GradCam(model, target_layer=layer, upsample=upsample).attribute(x, y)
    assert ours.any()
    assert torch.allclose(ours, large.expand_as(x), rtol=1e-10, atol=1e-14)


def test_the_last_convolution_is_the_default_and_in_place_layers_change_nothing(case):
    model, x, y = case
    twin = network(inplace=True)
    twin.load_state_dict(model.state_dict())
    for cam in (GradCam, GradCamPlusPlus):
        default = cam(model).attribute(x, y)
        assert torch.equal(default, cam(model, target_layer="4").attribute(x, y))
        assert torch.equal(default, cam(model, target_layer=model[4]).attribute(x, y))
        assert torch.allclose(default, cam(twin).attribute(x, y), rtol=1e-12)


def test_the_weights_of_gradcam_plus_plus_are_those_of_the_third_derivative(case):
    """The paper's equation 19 with its derivatives of Y = exp(S) taken one after the other, position by position."""
    model, x, y = case
    a = model[:6](x[:1]).detach().requires_grad_()  # after the ReLU: not negative, as the paper supposes
    score = model[6:](a)[0, y[0]]
    first, second, third = (torch.zeros_like(a).flatten() for _ in range(3))
    for p in range(a.numel()):
        # Along one activation at a time, the rest of the net is linear in `a`, so exp(S) is differentiated by hand.
        step = torch.zeros(a.numel()).double()
        step[p] = 1

        def along(t, step=step):
            return model[6:](a.detach() + t * step.view_as(a))[0, y[0]].exp()

        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (d1,) = torch.autograd.grad(along(t), t, create_graph=True)
        (d2,) = torch.autograd.grad(d1, t, create_graph=True)
        (d3,) = torch.autograd.grad(d2, t)
        first[p], second[p], third[p] = d1.detach(), d2.detach(), d3
    first, second, third = (d.view_as(a) for d in (first, second, third))
    alpha = second / (2 * second + a.sum((2, 3), keepdim=True) * third)
    weights = (alpha * first.relu()).sum((2, 3), keepdim=True)
    expected = (weights * a).sum(1, keepdim=True).relu().detach() / score.exp().detach()
    ours = GradCamPlusPlus(model, layer="5").attribute(x[:1], y[:1])
    assert torch.allclose(ours, expected.expand_as(ours), rtol=1e-9)


@pytest.mark.parametrize("cam", [GradCam, GradCamPlusPlus])
@pytest.mark.parametrize("where", [{}, {"target_layer": "2"}, {"layer": "2"}, {"layer": ("0",)}])
def test_the_derivative_of_a_penalty_is_exact(case, cam, where):
    model, x, y = case
    assert derivative_error(cam(model, **where), x, y) < 1e-5


def test_right_for_the_right_reasons_over_gradcam(case):
    model, x, y = case
    mask = torch.zeros(10, 10)
    mask[:4, :4] = 1
    history = RRR(explainer="gradcam", lambda_rrr=10.0, lr=1e-3, n_epochs=8, random_state=0).fit(
        model, x, y, mask, progress=False
    )
    assert history["penalty"][-1] < 0.5 * history["penalty"][0]


class Tokens(nn.Module):
    """A vision transformer in small: 4 x 6 patches, a class token and registers before them."""

    def __init__(self, prefix=1):
        super().__init__()
        self.patch = nn.Conv2d(3, 8, 4, stride=4)
        self.prefix = nn.Parameter(torch.randn(1, prefix, 8))
        self.block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        t = self.patch(x).flatten(2).transpose(1, 2)
        t = torch.cat([self.prefix.expand(len(t), -1, -1), t], 1)
        return self.head(self.norm(self.block(t)).mean(1))


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_patch_tokens_make_a_grid(prefix):
    model = Tokens(prefix).double().eval()
    x, y = torch.randn(2, 3, 16, 24).double(), torch.tensor([0, 3])
    kept = {}
    handle = model.norm.register_forward_hook(lambda _m, _i, out: kept.update(a=out))
    score = model(x).gather(1, y[:, None]).sum()
    handle.remove()
    (g,) = torch.autograd.grad(score, kept["a"])
    a, g = kept["a"][:, prefix:], g[:, prefix:]
    small = torch.einsum("ntd,nd->nt", a, g.mean(1)).relu().view(2, 1, 4, 6)
    expected = F.interpolate(small, (16, 24), mode="bilinear").expand_as(x)
    assert torch.allclose(GradCam(model, target_layer="norm").attribute(x, y), expected, rtol=1e-9)
    assert derivative_error(GradCam(model, target_layer="norm"), x, y) < 1e-5
    # The patch embedding is the last convolution; the norm's map says more. All tokens count where it is explained.
    assert torch.equal(GradCam(model).attribute(x, y), GradCam(model, target_layer="norm").attribute(x, y))
    assert GradCam(model, layer="norm", channel_axis=-1).attribute(x, y).shape == (2, 24 + prefix, 8)


def test_series_volumes_and_channels_last():
    series = nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
    assert GradCam(series).attribute(torch.randn(3, 2, 9), 1).shape == (3, 2, 9)
    volume = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 2))
    assert GradCam(volume).attribute(torch.randn(2, 1, 5, 6, 7), 1).shape == (2, 1, 5, 6, 7)

    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.linear(self.conv(x).permute(0, 2, 3, 1)).relu().mean((1, 2)))

    model, x = Last().double(), torch.randn(2, 1, 6, 6).double()
    flat = GradCam(model, target_layer="linear", channel_axis=-1).attribute(x, 0)
    a = model.linear(model.conv(x).permute(0, 2, 3, 1)).detach().requires_grad_()
    (g,) = torch.autograd.grad(model.head(a.relu().mean((1, 2)))[:, 0].sum(), a)
    small = (g.mean((1, 2), keepdim=True) * a).sum(-1).relu()[:, None].detach()
    assert torch.allclose(flat, F.interpolate(small, (6, 6), mode="bilinear"), rtol=1e-9)


def test_spec_names_the_layer(case):
    model, _, _ = case
    cam = GradCam(model, target_layer=model[2])
    again = EXPLAINERS.create(json.loads(json.dumps(cam.spec())))
    assert again.target_layer == "2"
    assert EXPLAINERS.create("gradcam:target_layer=conv").target_layer == "conv"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"target_layer": "44"}, UnknownNameError, "no layer '44'"),
        ({"target_layer": 4}, InvalidTypeError, "layer's name, a module, or a sequence"),
        ({"target_layer": "7"}, InvalidInputError, "no positions"),
        ({"layer": "7"}, InvalidInputError, "no positions"),
        ({"layer": "4", "target_layer": "4"}, InvalidInputError, "not both"),
        ({"channel_axis": 4}, InvalidInputError, "channel_axis"),
        ({"channel_axis": -4}, InvalidInputError, "channel_axis"),
        ({"upsample": "cubic"}, InvalidInputError, "upsample must be one of"),
    ],
)
def test_settings_that_cannot_be_right(case, settings, error, words):
    model, x, y = case
    with pytest.raises(error, match=words):
        GradCam(model, **settings).attribute(x, y)


def test_models_that_have_no_map(case):
    _, x, y = case
    dense = nn.Sequential(nn.Flatten(), nn.Linear(300, 4)).double()
    with pytest.raises(InvalidInputError, match=r"ran no convolution .* target_layer="):
        GradCam(dense).attribute(x, y)
    with pytest.raises(InvalidInputError, match="over positions"):
        GradCam(nn.Linear(3, 2)).attribute(torch.randn(2, 3), 0)
    ragged = nn.Sequential(nn.Flatten(2), nn.Linear(100, 7), nn.Flatten(), nn.Linear(21, 4)).double()
    with pytest.raises(InvalidInputError, match="3 tokens of layer '1' form no grid over images of 16 x 10"):
        GradCam(
            nn.Sequential(nn.Flatten(2), nn.Linear(160, 7), nn.Flatten(), nn.Linear(21, 4)).double(), target_layer="1"
        ).attribute(torch.randn(2, 3, 16, 10).double(), 0)
    with pytest.raises(InvalidInputError, match="say where its channels are"):
        GradCam(ragged, layer="1").attribute(x, y)

    class TwoInputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.aside, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

        def forward(self, a, b=None):
            self.aside(a)  # runs last but one, and feeds nothing
            return self.head((self.conv(a) + self.conv(a if b is None else b)).mean((2, 3)))

    two = TwoInputs().double()
    with pytest.raises(InvalidInputError, match="one input, got 2"):
        GradCam(two).attribute((x, x), y)
    with pytest.raises(InvalidInputError, match="must run once"):
        GradCam(two, target_layer="conv").attribute(x, y)
    with pytest.raises(InvalidInputError, match="does not depend on the chosen layer"):
        GradCam(two, target_layer="aside").attribute(x, y)
    rnn = nn.Sequential(nn.Flatten(2), nn.LSTM(100, 5, batch_first=True)).double()
    with pytest.raises(InvalidTypeError, match="must return a tensor"):
        GradCam(rnn, target_layer="1").attribute(x, lambda out: out[0].sum((1, 2)))


class StackedTowers(nn.Module):
    """Two inputs that pass one tower in one batch."""

    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))

    def forward(self, a, b):
        u, v = self.tower(torch.cat([a, b])).chunk(2)
        return (u * v).sum(1)


def test_fullgrad_refuses_a_layer_that_does_not_keep_the_batch():
    a, b = torch.rand(2, 3, 1, 6, 6)
    with pytest.raises(InvalidInputError, match=r"layer 'tower.0' must keep the batch of 3 first, it returns \(6, 4"):
        EXPLAINERS.create("fullgrad").bind(StackedTowers()).attribute((a, b))

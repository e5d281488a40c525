"""The class activation maps that no peer has, their settings, and what each refuses: against plain loops and captum."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import (
    AblationCam,
    EigenCam,
    FinerCam,
    GradCam,
    GradCamPlusPlus,
    GuidedGradCam,
    HiResCam,
    ScoreCam,
    ShapleyCam,
    SmoothGradCamPlusPlus,
)
from xaikit.explainers.noise import NoiseStream
from xaikit.testing import derivative_error

X = torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 2, 1])


@pytest.fixture
def model():
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 3, padding=1), nn.Tanh(),
        nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 3),
    ).double().eval()  # fmt: skip


def hidden(model, x, y, noise=0):
    """Activations after the second convolution, and the derivative of the score by them."""
    a = model[:4](x + noise).detach().requires_grad_()
    return a.detach(), torch.autograd.grad(model[4:](a).gather(1, y[:, None]).sum(), a)[0]


def enlarged(small):
    return F.interpolate(small, X.shape[2:], mode="bilinear").expand_as(X)


def test_smooth_gradcam_plus_plus_is_a_mean_over_noisy_copies(model):
    explainer = SmoothGradCamPlusPlus(model, n_iter=3, noise="gaussian", noise_level=0.2)
    (z,) = NoiseStream("gaussian", [X.shape[1:]], 0).draw(3)
    extent = X.amax((1, 2, 3), keepdim=True) - X.amin((1, 2, 3), keepdim=True)
    a = model[:4](X).detach()
    g = torch.stack([hidden(model, X, Y, 0.2 * extent * draw)[1] for draw in z])
    second, third = g.relu().pow(2).mean(0), g.relu().pow(3).mean(0)
    alpha = second / (2 * second + third * a.relu().sum((2, 3), keepdim=True))
    weights = (alpha.nan_to_num(0) * g.mean(0).relu()).sum((2, 3), keepdim=True)
    small = (weights * a).sum(1, keepdim=True).relu()
    assert torch.allclose(explainer.attribute(X, Y), enlarged(small), rtol=1e-6)
    assert torch.allclose(explainer.set_kwargs(layer="3").attribute(X, Y), small.expand_as(a), rtol=1e-6)
    still = explainer.set_kwargs(noise_level=0.0, n_iter=1)
    assert torch.allclose(still.attribute(X, Y), GradCamPlusPlus(model).attribute(X, Y), rtol=1e-9)
    assert derivative_error(explainer, X, Y) < 1e-5


def test_shapleycam_takes_off_half_of_the_hessian(model):
    a, g = hidden(model, X, Y)
    tail = lambda t: model[4:](t[None])[0]
    product = torch.stack(
        [torch.autograd.functional.hvp(lambda t, y=y: tail(t)[y], one, one)[1] for one, y in zip(a, Y, strict=True)]
    )
    small = ((g - product / 2).mean((2, 3), keepdim=True) * a).sum(1, keepdim=True).relu()
    assert (product.abs() > 1e-3).any()
    assert torch.allclose(ShapleyCam(model).attribute(X, Y), enlarged(small), rtol=1e-9)
    assert torch.allclose(ShapleyCam(model, layer="3").attribute(X, Y), small.expand_as(a), rtol=1e-9)
    assert max(derivative_error(ShapleyCam(model, **where), X, Y) for where in ({}, {"layer": "3"})) < 1e-5


@pytest.mark.parametrize("max_rows", [None, 2])
def test_channels_are_kept_and_taken_away_one_by_one(model, max_rows):
    a, _ = hidden(model, X, Y)
    score = lambda out: out.gather(1, Y[:, None])[:, 0].detach()
    kept, without = [], []
    large = F.interpolate(a, X.shape[2:], mode="bilinear")
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    masks = (large - low) / (high - low)
    for k in range(4):
        kept.append(score(model(X * masks[:, k : k + 1])))
        changed = a.clone()
        changed[:, k] = 0
        without.append(score(model[4:](changed)))
    whole = score(model(X))
    weights = torch.stack(kept, 1).softmax(1)
    expected = (weights[..., None, None] * a).sum(1, keepdim=True).relu()
    assert torch.allclose(ScoreCam(model, max_rows=max_rows).attribute(X, Y), enlarged(expected), rtol=1e-9)
    assert torch.allclose(ScoreCam(model, layer="3").attribute(X, Y), expected.expand_as(a), rtol=1e-9)
    weights = (whole[:, None] - torch.stack(without, 1)) / whole.abs()[:, None]
    expected = (weights[..., None, None] * a).sum(1, keepdim=True).relu()
    assert torch.allclose(AblationCam(model, max_rows=max_rows).attribute(X, Y), enlarged(expected), rtol=1e-9)
    assert torch.allclose(AblationCam(model, target_layer="3").attribute(X, Y), enlarged(expected), rtol=1e-9)
    for cam in (ScoreCam, AblationCam):
        assert derivative_error(cam(model, max_rows=max_rows), X, Y) < 1e-5


def test_a_transformer_s_channels_are_taken_away_in_every_token():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.norm, self.head = nn.Conv2d(2, 6, 4, stride=4), nn.LayerNorm(6), nn.Linear(6, 3)
            self.first = nn.Parameter(torch.randn(1, 1, 6))
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def tail(self, t):
            return self.head((t + self.attention(t, t, t, need_weights=False)[0])[:, 0])

        def forward(self, x):
            t = self.patch(x).flatten(2).transpose(1, 2)
            return self.tail(self.norm(torch.cat([self.first.expand(len(t), -1, -1), t], 1)))

    net = Tokens().double().eval()
    kept = {}
    handle = net.norm.register_forward_hook(lambda _m, _i, out: kept.update(a=out.detach()))
    whole = net(X)[:, 1].detach()
    handle.remove()
    drops = []
    for k in range(6):
        changed = kept["a"].clone()
        changed[..., k] = 0
        drops.append((whole - net.tail(changed)[:, 1].detach()) / whole.abs())
    small = torch.einsum("ntd,nd->nt", kept["a"][:, 1:], torch.stack(drops, 1)).relu().view(3, 1, 2, 2)
    # The norm before the attention, since only the class token counts behind it.
    assert torch.allclose(AblationCam(net).attribute(X, 1), enlarged(small), rtol=1e-9)
    named = AblationCam(net, target_layer="norm").attribute(X, 1)
    assert torch.equal(AblationCam(net).attribute(X, 1), named)
    assert torch.equal(GradCam(net).attribute(X, 1), GradCam(net, target_layer="norm").attribute(X, 1))


def test_guided_gradcam_is_captum_s():
    import_torchvision()
    from captum.attr import GuidedGradCam as Theirs

    net = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)
    ).double()  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # captum tells of its hooks
        theirs = Theirs(net, net[2]).attribute(X.clone().requires_grad_(), Y)
    ours = GuidedGradCam(net, upsample="nearest").attribute(X, Y)
    assert theirs.any()
    assert torch.allclose(ours, theirs, rtol=1e-9)
    # The score's own curvature reaches the weights through the ReLUs' derivative, not through the guided rule.
    for target in (Y, lambda out: out.log_softmax(1)[:, 1]):
        assert derivative_error(GuidedGradCam(net), X, target) < 1e-5


def test_hirescam_without_relu_sums_to_the_score_of_a_linear_tail():
    net = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Flatten(), nn.Linear(320, 3, bias=False)).double()
    small = HiResCam(net, layer="0", relu=False).attribute(X, Y)[:, 0]
    assert torch.allclose(small.sum((1, 2)), net(X).gather(1, Y[:, None])[:, 0], rtol=1e-9)


def test_finercam_of_complex_outputs_is_refused():
    class Wave(nn.Sequential):
        def forward(self, x):
            return torch.complex(super().forward(x), torch.ones(1))

    net = Wave(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(InvalidInputError, match=r"must be real, .* got \(2, 3\) of torch.complex64; use GradCam"):
        FinerCam(net).attribute(torch.rand(2, 3, 8, 8), lambda output: output.abs()[:, 1])


def test_finercam_by_a_function_is_that_of_its_class(model):
    a = FinerCam(model, alpha=0.5, n_compared=1).attribute(X, 1)
    assert torch.allclose(a, FinerCam(model, alpha=0.5, n_compared=1).attribute(X, lambda out: out[:, 1]), rtol=1e-9)
    out = model(X).detach()
    other = (out - out[:, 1:2]).abs().index_fill(1, torch.tensor([1]), torch.inf).argmin(1)
    contrast = lambda o: o[:, 1] - 0.5 * o.gather(1, other[:, None])[:, 0]
    assert torch.allclose(a, GradCam(model).attribute(X, contrast), rtol=1e-9)
    assert not torch.allclose(a, FinerCam(model, rule="hirescam").attribute(X, 1), rtol=0.1)


def test_eigen_smoothing_and_its_derivative(model):
    a, g = hidden(model, X, Y)
    c = (g * a).flatten(2).transpose(1, 2)
    c, sums = c - c.mean(1, keepdim=True), c.sum(2)
    heat = (c @ torch.linalg.svd(c, full_matrices=False).Vh[:, 0, :, None])[..., 0]
    heat = heat * (heat * (sums - sums.mean(1, keepdim=True))).sum(1, keepdim=True).sign()
    smooth = HiResCam(model, channels="eigen")
    assert torch.allclose(smooth.attribute(X, Y), enlarged(heat.relu().view(3, 1, 4, 4)), rtol=1e-6, atol=1e-12)
    assert torch.equal(smooth.attribute(X, Y), EXPLAINERS.create("eigengradcam").bind(model).attribute(X, Y))
    wide = nn.Sequential(nn.Conv2d(2, 40, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(360, 3)).double()
    for net in (model, wide):  # fewer channels than positions, and more
        assert derivative_error(smooth.bind(net), X, Y) < 1e-5
        assert derivative_error(EigenCam(net), X, Y) < 1e-5


def test_the_mean_of_mirrored_and_brighter_copies(model):
    cam = GradCam(model)
    copies = [cam.attribute(f * X, Y) for f in (0.9, 1.0, 1.1)]
    copies += [cam.attribute(f * X.flip(-1), Y).flip(-1) for f in (0.9, 1.0, 1.1)]
    augmented = GradCam(model, augment=True)
    assert torch.allclose(augmented.attribute(X, Y), torch.stack(copies).mean(0), rtol=1e-9)
    assert derivative_error(augmented, X, Y) < 1e-5
    values, output = augmented.attribute_with_output(X, Y)
    assert output is None
    assert torch.equal(values, augmented.attribute(X, Y))


def test_several_layers_are_averaged(model):
    for cam in (HiResCam, AblationCam, ShapleyCam):
        both = cam(model, target_layer=("0", "3")).attribute(X, Y)
        one, other = (cam(model, target_layer=name).attribute(X, Y) for name in ("0", "3"))
        assert torch.allclose(both, (one + other) / 2, rtol=1e-9)


def test_what_cannot_be_right(model):
    with pytest.raises(InvalidInputError, match=r"at least two classes, got \(3, 1\) of .*; use GradCam"):
        FinerCam(nn.Sequential(*model, nn.Linear(3, 1)).double()).attribute(X)
    for cam in (ScoreCam, AblationCam, ShapleyCam, SmoothGradCamPlusPlus, EigenCam):
        with pytest.raises(InvalidInputError, match="layer '6' .* no positions"):
            cam(model, target_layer="6").attribute(X, Y)
        with pytest.raises(InvalidInputError, match="over positions"):
            cam(nn.Linear(3, 2).double()).attribute(torch.randn(2, 3).double(), 0)
    with pytest.raises(InvalidInputError, match="not layer="):
        GradCam(model, layer="3", augment=True)
    twice = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(128, 3))
    twice.insert(1, twice[0])
    with pytest.raises(InvalidInputError, match=r"runs? .*2 times|one run feeds another"):
        ScoreCam(twice.double(), target_layer="0").attribute(X, Y)


def test_tokens_take_no_noise():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3))
    with pytest.raises(
        InvalidTypeError, match=r"adds noise to the inputs, and torch.int64 takes none; use gradcam_plus"
    ):
        SmoothGradCamPlusPlus(model, layer="0").attribute(torch.ones(2, 5, dtype=torch.long), 1)


def test_an_adapter_s_map_is_that_of_its_merged_convolution():
    """peft's LoRA: the inner convolutions run last, and carry what the adapter adds only."""

    class Adapter(nn.Module):
        def __init__(self):
            super().__init__()
            self.base_layer, self.lora_A = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 2, 3, bias=False)
            self.lora_B = nn.Conv2d(2, 4, 1, bias=False)

        def forward(self, x):
            return self.base_layer(x) + self.lora_B(self.lora_A(x))

    torch.manual_seed(0)
    adapter, tail = Adapter(), nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
    merged, x = nn.Conv2d(3, 4, 3), torch.rand(2, 3, 8, 8)
    merged.bias = adapter.base_layer.bias
    inner = torch.einsum("ok,kchw->ochw", adapter.lora_B.weight[..., 0, 0], adapter.lora_A.weight)
    merged.weight = nn.Parameter(adapter.base_layer.weight + inner)
    expected = GradCam(nn.Sequential(merged, tail)).attribute(x, 1)
    torch.testing.assert_close(GradCam(nn.Sequential(adapter, tail)).attribute(x, 1), expected)


@pytest.mark.parametrize("name", ["gradcam", "ablationcam", "captum:algorithm=GuidedGradCam"])
def test_the_layer_of_an_auxiliary_head_makes_no_map(name):
    """Segmentation nets run an auxiliary head last; its convolution does not lead to the explained output."""

    class Auxiliary(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.side = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)
            self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))

        def forward(self, x):
            h = self.body(x)
            return {"out": self.head(h), "aux": self.side(h)}

    model, x = Auxiliary(), torch.rand(2, 3, 8, 8)
    explainer = EXPLAINERS.create(name)
    expected = explainer.bind(nn.Sequential(model.body, model.head)).attribute(x, 1)
    torch.testing.assert_close(explainer.bind(model).set_kwargs(head="out").attribute(x, 1), expected)


@pytest.mark.parametrize("create_graph", [False, True])
def test_norms_of_another_input_make_no_map_of_the_image(create_graph):
    """Queries (DETR) and texts (CLIP) pass norms as patches do, and may be as many."""

    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.patch, self.norm, self.after = nn.Conv2d(3, 4, 4, 4), nn.LayerNorm(4), nn.LayerNorm(4)
            self.queries, self.head = nn.Parameter(torch.randn(4, 4)), nn.Linear(4, 3)

        def forward(self, x):
            tokens = self.norm(self.patch(x).flatten(2).transpose(1, 2))
            return self.head((tokens * self.after(self.queries.expand(len(x), -1, -1))).tanh().mean(1))

    model, x = Queries(), torch.rand(2, 3, 8, 8)
    expected = GradCam(model, target_layer="norm").attribute(x, 1)
    torch.testing.assert_close(GradCam(model).attribute(x, 1, create_graph=create_graph), expected)

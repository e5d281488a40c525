"""Other libraries' nets and rules: captum's LRP on the same input, timm's models."""

from __future__ import annotations

import pytest
import torch
from captum import attr as captum
from captum.attr._utils.lrp_rules import EpsilonRule
from torch import nn

from xaikit.explainers.lrp import LRPUniformEpsilon
from xaikit.testing import derivative_error


class Convolutional(nn.Sequential):
    """captum has no rule for nn.Flatten, so the tensor is flattened in between."""

    def __init__(self):
        super().__init__(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 4, 2), nn.ReLU(), nn.Linear(4, 3))

    def forward(self, x):
        for module in list(self)[:5]:
            x = module(x)
        return self[5](x.flatten(1))


def dense():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.mark.filterwarnings("ignore:Setting forward, backward hooks")
@pytest.mark.parametrize(("make", "shape"), [(Convolutional, (2, 7, 7)), (dense, (5,))])
def test_epsilon_rule_against_captum(make, shape):
    """captum's relevance of the same rule in every layer; it, too, starts from the score."""
    torch.manual_seed(0)
    model, x, y = make().double().eval(), torch.randn(3, *shape, dtype=torch.float64), torch.tensor([0, 2, 1])
    ours = LRPUniformEpsilon(model, epsilon=1e-3, stabilizer=1e-9).attribute(x, y)
    for module in model:
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.rule = EpsilonRule(epsilon=1e-3)
    theirs = captum.LRP(model).attribute(x.clone().requires_grad_(), target=y).detach()
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-6


TIMM = {
    "resnet10t": {},
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "depth": 2},
    "mixer_s32_224": {"img_size": 64},
    "convnext_atto": {},
}


@pytest.mark.parametrize("name", TIMM)
def test_timm_models_conserve_relevance(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    settings = TIMM[name]
    model = timm.create_model(name, pretrained=False, num_classes=4, **settings).double().eval()
    with torch.no_grad():
        for parameter_name, p in model.named_parameters():
            if parameter_name.endswith("bias") or "pos_embed" in parameter_name or "cls_token" in parameter_name:
                p.zero_()
    x = torch.randn(2, 3, settings.get("img_size", 64), settings.get("img_size", 64), dtype=torch.float64)
    result = LRPUniformEpsilon(model, epsilon=1e-9, stabilizer=1e-12).explain(x, 1)
    assert bool((result.gap < 0.01 * result.scores.abs().clamp_min(1e-3)).all())


@pytest.mark.slow
def test_derivative_on_a_timm_transformer():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=16, patch_size=8, depth=1, embed_dim=24)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    assert derivative_error(LRPUniformEpsilon(model.double().eval()), x, torch.tensor([0, 2])) < 1e-5

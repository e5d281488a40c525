"""Our relevance equals zennit's own on models of modules, with its canonizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidTypeError, MissingDependencyError, UnknownNameError
from xaikit.explainers.lrp import LRP, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon, zennit_rules


@pytest.fixture(scope="module")
def z():
    return zennit_rules.zennit()


def zennit_relevance(model, composite, x, targets):
    """zennit's own relevance, starting from the target's logit."""
    x = x.clone().requires_grad_()
    with composite.context(model) as modified:
        output = modified(x)
        seed = torch.zeros_like(output).scatter_(1, targets[:, None], 1.0) * output.detach()
        (relevance,) = torch.autograd.grad(output, x, seed)
    return relevance


def torchvision_model(name):
    models = pytest.importorskip("torchvision.models")
    pytest.importorskip("transformers")
    from tests.zoo import SMALL

    if name == "small_vgg_bn":
        layers = models.vgg.make_layers([8, "M", 8, "M", 16, 16], batch_norm=True)
        model = models.VGG(layers, init_weights=False)
        model.avgpool = nn.AdaptiveAvgPool2d(2)
        model.classifier = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    else:
        model = SMALL[name].build()
    model.double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            # zennit leaves eps in a BatchNorm whose variance it has set to 1; without an eps it is exact.
            module.running_var.uniform_(0.5, 1.5)
            module.eps = 0.0
    return model


@pytest.mark.parametrize("name", ["resnet18", "small_vgg_bn", pytest.param("vgg11_bn", marks=pytest.mark.zoo)])
def test_equals_zennit_with_its_canonizers(name, variant, z):
    import zennit.torchvision as canonizers

    model = torchvision_model(name)
    x, targets = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([3, 7])
    explainer = variant(model)
    composite = explainer._make_composite()
    composite.canonizers = [canonizers.ResNetCanonizer() if name == "resnet18" else canonizers.VGGCanonizer()]
    theirs = zennit_relevance(model, composite, x, targets)
    ours = explainer.attribute(x, targets)
    assert (ours - theirs).abs().max() < 1e-10 * theirs.abs().max()


def _composites(z):
    rules, types = z.rules, z.types
    base = z.composites.layer_map_base()
    layer_map = z.composites.LayerMapComposite
    doubled = z.core.BasicHook(
        input_modifiers=[lambda x: x, lambda x: 2 * x],
        param_modifiers=[lambda p, _: p, lambda p, _: p.clamp(min=0)],
        output_modifiers=[lambda y: y] * 2,
        gradient_mapper=lambda g, outputs: [g / z.core.stabilize(sum(outputs), 1e-3)] * 2,
        reducer=lambda inputs, gradients: sum(i * g for i, g in zip(inputs, gradients, strict=True)),
    )
    return {
        "epsilon without bias": layer_map([*base, (types.Linear, rules.Epsilon(0.1, zero_params="bias"))]),
        "z+ without bias": layer_map([*base, (types.Linear, rules.ZPlus(zero_params=["bias"]))]),
        "gamma": layer_map([*base, (types.Linear, rules.Gamma(0.3, stabilizer=1e-3))]),
        "alpha 1 beta 0": layer_map([*base, (types.Linear, rules.AlphaBeta(1, 0))]),
        "a hook of the user's": layer_map([*base, (types.Linear, doubled)]),
        "by name": z.composites.MixedComposite(
            [z.composites.NameMapComposite([(["0"], rules.WSquare())]), z.composites.EpsilonPlus()]
        ),
        "box by tensors": z.composites.EpsilonGammaBox(
            low=torch.full((1, 2, 1, 1), -2.0, dtype=torch.float64), high=torch.tensor(2.5, dtype=torch.float64)
        ),
    }


@pytest.mark.parametrize("kind", _composites(zennit_rules.zennit()))
def test_any_composite(kind, z):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4, 3)
    ).double()  # fmt: skip
    x, targets = torch.randn(3, 2, 6, 6, dtype=torch.float64), torch.tensor([0, 1, 2])
    x[:, :, :2] = 0.0  # zero pixels get relevance from the box rule
    composite = _composites(z)[kind]
    ours = LRP(model, composite=composite).attribute(x, targets)
    theirs = zennit_relevance(model, composite, x, targets)
    assert (ours - theirs).abs().max() < 1e-9 * theirs.abs().max()


def test_the_first_layer_is_the_one_that_runs_first(z):
    class Swapped(nn.Sequential):
        def forward(self, x):
            return self[0](torch.relu(self[1](x)).flatten(1))

    model = Swapped(nn.Linear(64, 3), nn.Conv2d(2, 4, 3)).double()
    straight = nn.Sequential(model[1], nn.ReLU(), nn.Flatten(), model[0])
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    flat = LRP(model, composite="epsilon_plus_flat").attribute(x, 1)
    expected = LRP(straight, composite="epsilon_plus_flat").attribute(x, 1)
    assert torch.allclose(flat, expected, rtol=1e-12)


def test_canonizers_may_be_given_and_leave_weights_attached(residual, z):
    model, x = residual
    plain = LRPEpsilonPlus(model).attribute(x, 0)
    given = LRPEpsilonPlus(model, zennit_canonizers=[z.canonizers.SequentialMergeBatchNorm()]).attribute(x, 0)
    assert torch.equal(plain, given)
    with pytest.raises(InvalidTypeError, match="Canonizer"):
        LRPEpsilonPlus(model, zennit_canonizers=[3]).attribute(x, 0)


def test_zennit_not_importable(monkeypatch, residual):
    import sys

    model, x = residual
    zennit_rules.zennit.cache_clear()
    monkeypatch.setitem(sys.modules, "zennit.rules", None)
    with pytest.raises(MissingDependencyError, match="zennit") as caught:
        LRPUniformEpsilon(model, epsilon=0.123).attribute(x, 0)  # settings whose composite nobody has built yet
    assert isinstance(caught.value.__cause__, ImportError)
    zennit_rules.zennit.cache_clear()


def test_wrong_settings():
    with pytest.raises(InvalidTypeError, match="composite"):
        LRP(nn.Linear(2, 2), composite=3)
    with pytest.raises(UnknownNameError, match="epsilon_plus"):
        LRP(nn.Linear(2, 2), composite="epsilon_pluss").attribute(torch.ones(1, 2), 0)
    with pytest.raises(InvalidTypeError, match="low"):
        LRPEpsilonGammaBox(low="dark")

"""Guarantees of a call: hooks, the order of definition and errors in the middle change nothing."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit.explainers.lrp import LRP, AttnLRP, LRPEpsilonPlus, LRPUniformEpsilon, formulas, zennit_rules


def state_of(model):
    flags = [(m.training, list(m._forward_hooks), list(m._forward_pre_hooks), set(m.__dict__)) for m in model.modules()]
    return flags, [(id(p), p.requires_grad, p.grad is None) for p in model.parameters()]


@pytest.mark.parametrize("layer", [None, "conv2", ["conv1", "conv2", "head"]])
@pytest.mark.parametrize("method", ["attribute", "explain"])
def test_hooks_of_the_users_own_fire_once(residual, variant, layer, method):
    model, x = residual
    getattr(variant(model).set_kwargs(layer=layer), method)(x, 0)  # the first call gets to know the model
    fired = []
    for name, module in model.named_modules():
        if name != "relu":  # runs twice
            module.register_forward_pre_hook(lambda *_, name=name: fired.append(f"before {name}"))
            module.register_forward_hook(lambda *_, name=name: fired.append(f"after {name}"))
    getattr(variant(model).set_kwargs(layer=layer), method)(x, 0)
    assert len(fired) == len(set(fired)) == 12


def test_a_hook_of_the_users_own_that_changes_the_output(variant):
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    body = nn.Conv2d(2, 3, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    written = nn.Sequential(body[0], body[1], body[2], Doubled(), *body[3:]).double()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    expected = variant(written).attribute(x, 1)
    hooked = nn.Sequential(*body).double()
    hooked[2].register_forward_hook(lambda _m, _i, out: 2 * out)
    torch.testing.assert_close(variant(hooked).attribute(x, 1), expected, rtol=1e-12, atol=1e-14)


RULES = [
    (rule, layer) for rule in ("damp", "zplus", "alpha_beta", "whole_module") for layer in (None, ["conv1", "conv2"])
]


# "any_hook" is the first layer's rule, which relevance at that layer's output does not meet.
@pytest.mark.parametrize(("rule", "layer"), [*RULES, ("any_hook", None)])
def test_as_found_after_an_error_in_any_rule(residual, rule, layer, monkeypatch):
    """Hooks, flags and parameters are as they were, and no activation stays in memory."""
    model, x = residual
    LRPEpsilonPlus(model, layer=layer).attribute(x, 0)  # the first call gets to know the model
    kept = []
    model.conv2.register_forward_hook(lambda _m, _i, out: kept.append(weakref.ref(out)))
    before, z = state_of(model), zennit_rules.zennit()

    def broken(*_args, **_kwargs):
        raise ZeroDivisionError

    composites = {
        "damp": LRPUniformEpsilon(model, epsilon=0.5)._make_composite(),
        "zplus": z.composites.EpsilonPlus(),
        "alpha_beta": z.composites.EpsilonAlpha2Beta1(),
        "any_hook": z.composites.EpsilonPlusFlat(),
        "whole_module": z.composites.LayerMapComposite([(nn.ReLU, z.rules.ZPlus()), (nn.Linear, z.rules.Epsilon())]),
    }
    places = {
        "damp": (zennit_rules.flow.Damped, "factor"),
        "whole_module": (formulas, "general"),
        "any_hook": (formulas, "general"),
    }
    owner, name = places.get(rule, (formulas, rule))
    zennit_rules.read.cache_clear()
    monkeypatch.setattr(owner, name, broken)
    with pytest.raises(ZeroDivisionError):
        LRP(model, composite=composites[rule], layer=layer).attribute(x, 0)
    zennit_rules.read.cache_clear()
    monkeypatch.undo()
    assert state_of(model) == before
    gc.collect()
    assert len(kept) == 1
    assert kept[0]() is None
    assert LRPEpsilonPlus(model).attribute(x, 0).isfinite().all()


@pytest.mark.parametrize("layer", [None, "first"])
def test_as_found_after_an_error_in_the_model(layer):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            self.second(self.first(x))
            raise KeyboardInterrupt

    model = Broken()
    before, random = state_of(model), torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        LRPEpsilonPlus(model, layer=layer).attribute(torch.randn(2, 3, generator=torch.Generator()), 0)
    assert state_of(model) == before
    assert torch.equal(torch.get_rng_state(), random)


class OutOfOrder(nn.Module):
    """Run in another order than defined: zennit's canonizer would merge each norm into the layer defined before it."""

    def __init__(self):
        super().__init__()
        self.conv_b, self.norm_a = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        self.conv_a, self.norm_b = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)
        self.head = nn.Linear(12, 3)
        for norm in (self.norm_a, self.norm_b):
            norm.running_mean.normal_(0, 0.3)
            norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x):
        x = F.relu(self.norm_a(self.conv_a(x)))
        return self.head(F.relu(self.norm_b(self.conv_b(x))).flatten(1))


def test_batch_norm_out_of_the_order_of_definition(variant):
    model, x = OutOfOrder().double().eval(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    straight = nn.Sequential(
        model.conv_a, model.norm_a, nn.ReLU(), model.conv_b, model.norm_b, nn.ReLU(), nn.Flatten(), model.head
    )
    explained, expected = variant(model).explain(x, 1), variant(straight).attribute(x, 1)
    torch.testing.assert_close(explained.values, expected, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(explained.scores, model(x)[:, 1].detach(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", ["ZBox", "WSquare", "Flat"])
def test_first_layer_rules_act_on_the_layer_that_runs_first(rule):
    z = zennit_rules.zennit()
    first = z.rules.ZBox(-3.0, 3.0) if rule == "ZBox" else getattr(z.rules, rule)()
    composite = z.composites.SpecialFirstLayerMapComposite(
        layer_map=[*z.composites.layer_map_base(), (z.types.Linear, z.rules.Epsilon())],
        first_map=[(z.types.Linear, first)],
    )
    model, x = OutOfOrder().double().eval(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    parts = [model.conv_a, model.norm_a, nn.ReLU(), model.conv_b, model.norm_b, nn.ReLU(), nn.Flatten(), model.head]
    found, straight = (LRP(m, composite=composite).attribute(x, 1) for m in (model, nn.Sequential(*parts)))
    torch.testing.assert_close(found, straight, rtol=1e-12, atol=1e-14)
    plain = LRPUniformEpsilon(model, epsilon=1e-6).attribute(x, 1)
    assert not torch.allclose(found, plain, rtol=1e-3)


def test_a_module_that_runs_twice_with_its_batch_norm(variant):
    """Each run has the rule of its own place, as if two modules held the same weights."""

    class Net(nn.Module):
        def __init__(self, first, second):
            super().__init__()
            self.first, self.second, self.head = first, second, nn.Linear(32, 3)

        def forward(self, x):
            return self.head(F.relu(self.second(F.relu(self.first(x)))).flatten(1))

    def block():
        return nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)).double().eval()

    one, other = block(), block()
    one[1].running_mean.normal_()
    other.load_state_dict(one.state_dict())
    twice, apart = Net(one, one).double(), Net(one, other).double()
    apart.head = twice.head
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(variant(twice).attribute(x, 1), variant(apart).attribute(x, 1), rtol=1e-12, atol=0)


@pytest.mark.parametrize("functional", [False, True])
def test_the_first_layer_of_siamese_towers_has_its_rule_in_both(variant, functional):
    class Towers(nn.Module):
        def __init__(self, views):
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.head = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
            self.views = views

        def tower(self, x):
            h = F.conv2d(x, self.first.weight, self.first.bias) if functional else self.first(x)
            return self.head(F.relu(self.second(F.relu(h))).mean((2, 3)))

        def forward(self, x):
            return sum(self.tower(view(x)) for view in self.views)

    def turned(x):
        return x.flip(-1)

    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    one, both = Towers([lambda x: x]).double(), Towers([lambda x: x, turned]).double()
    each = variant(one).attribute(x, 1) + turned(variant(one).attribute(turned(x), 1))
    torch.testing.assert_close(variant(both).attribute(x, 1), each, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [LRPUniformEpsilon, AttnLRP])
@pytest.mark.parametrize("layer", ["0.layers.0.linear1", "0.layers.1.self_attn", ["0.layers.0", "0.layers.1.linear2"]])
def test_layers_inside_fused_attention(kind, layer):
    """In evaluation mode PyTorch would run such a layer as one kernel, in which no module runs."""
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
    )
    model = nn.Sequential(encoder, nn.Flatten(), nn.Linear(40, 3)).double().eval()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    names = [layer] if isinstance(layer, str) else layer
    for name, relevance in zip(names, kind(model, layer=names).attribute(x, 1), strict=True):
        assert relevance.any()
        alone = kind(model, layer=model.get_submodule(name)).attribute(x, 1)
        torch.testing.assert_close(relevance, alone, rtol=1e-12, atol=0)

"""The explainers as values, and the model as it was found."""

from __future__ import annotations

import copy
import gc
import re
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit.core import EXPLAINERS, Attribution
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers.lrp import LRP, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon, zennit_rules
from xaikit.testing import directional_derivative_error


def test_closed_form_of_the_epsilon_rule():
    model = nn.Linear(4, 2).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    z = model(x)[:, 1:]
    expected = x * model.weight[1] * z / (z + 0.25 * z.sign())
    assert torch.allclose(LRPUniformEpsilon(model, epsilon=0.25).attribute(x, 1), expected.detach(), rtol=1e-12)


def test_twenty_epsilons_give_twenty_attributions(residual):
    model, x = residual
    explainer = LRPEpsilonPlus(model)
    epsilons = [10 ** (-6 + 0.3 * k) for k in range(20)]
    assert len({float(explainer.set_kwargs(epsilon=e).attribute(x, 0).square().sum()) for e in epsilons}) == 20


@pytest.mark.parametrize("name", ["uniform_epsilon", "epsilon_gamma_box", "epsilon_plus", "epsilon_alpha2_beta1"])
def test_registered_and_tunable(name):
    spec = EXPLAINERS.get(f"lrp_{name}").TUNABLES["epsilon"]
    assert (spec.low, spec.high, spec.log) == (1e-6, 1, True)


def test_gamma_is_tunable():
    assert set(LRPEpsilonGammaBox.TUNABLES) == {"epsilon", "gamma"}


def snapshot(model):
    return (
        {n: (id(p), p.detach().clone()) for n, p in model.named_parameters()},
        {n: b.clone() for n, b in model.named_buffers()},
        [(m.training, list(m._forward_hooks), list(m._forward_pre_hooks), set(m.__dict__)) for m in model.modules()],
    )


def assert_same(before, after):
    assert before[2] == after[2]
    for old, new in zip(before[0].values(), after[0].values(), strict=True):
        assert old[0] == new[0]
        assert torch.equal(old[1], new[1])
    assert all(torch.equal(a, b) for a, b in zip(before[1].values(), after[1].values(), strict=True))


def test_the_model_as_found(net, variant):
    model, x = net
    model.train()
    variant(model).attribute(x, 0)  # the first call gets to know the model
    fired = []
    model.register_forward_hook(lambda *_: fired.append("model"))
    next(model.children()).register_forward_pre_hook(lambda *_: fired.append("first"))
    before = snapshot(model)
    variant(model).attribute(x, 0)
    assert sorted(fired) == ["first", "model"]
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("part", ["mapper", "modifier"])
def test_the_model_as_found_after_an_exception_in_a_rule(residual, part):
    z = zennit_rules.zennit()

    def broken(*_):
        raise ZeroDivisionError("in the rule")

    kind = {"gradient_mapper": broken} if part == "mapper" else {"param_modifiers": [broken]}
    hook = z.core.BasicHook(**kind)
    for module_type in (nn.Conv2d, nn.ReLU):
        model, x = residual
        before = snapshot(model)
        composite = z.composites.LayerMapComposite([(module_type, hook)])
        if part == "modifier" and module_type is nn.ReLU:
            continue  # no parameters to modify
        with pytest.raises(ZeroDivisionError):
            LRP(model, composite=composite).attribute(x, 0)
        assert_same(before, snapshot(model))
        assert LRPEpsilonPlus(model).attribute(x, 0).isfinite().all()


def test_a_composite_that_is_registered_elsewhere(residual):
    model, x = residual
    composite = zennit_rules.zennit().composites.EpsilonPlus()
    expected = LRP(model, composite=composite).attribute(x, 0)
    with composite.context(copy.deepcopy(model)):
        assert torch.equal(LRP(model, composite=composite).attribute(x, 0), expected)


def test_an_operation_without_a_rule_is_named():
    class Odd(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return torch.atan2(y, y.flip(1))

    with pytest.warns(UserWarning, match="atan2.*Odd"):
        LRPEpsilonPlus(Odd(4, 3)).attribute(torch.randn(2, 4), 0)


def test_functional_activations_equal_modules(variant, recwarn):
    class Functional(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            h = F.max_pool2d(F.relu(self.net[0](x)), 2)
            return self.net[5](F.gelu(self.net[3](h)).flatten(1))

    modules = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2),
        nn.Sequential(nn.GELU(), nn.Flatten()), nn.Linear(4, 3),
    ).double()  # fmt: skip
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)
    assert torch.allclose(variant(modules).attribute(x, 1), variant(Functional(modules)).attribute(x, 1), rtol=1e-12)
    assert not recwarn.list


def test_in_place_equals_out_of_place(variant):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(2, 2, 3, padding=1), nn.Linear(8, 2)

        def forward(self, x, inplace=False):
            h = self.conv(x)
            if inplace:
                h = F.hardswish(h, inplace=True)
                h *= 1.5
                h += x
                h.sigmoid_()
            else:
                h = torch.sigmoid(F.hardswish(h) * 1.5 + x)
            return self.out(h.flatten(1))

    model = Block().double()
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    out = variant(model).attribute(x, 0)
    model.forward = lambda x: Block.forward(model, x, True)
    assert torch.allclose(variant(model).attribute(x, 0), out, rtol=1e-12)


def test_nothing_lingers(residual, variant):
    """No reference cycle holds activations: they go when the result does, without the garbage collector."""
    model, x = residual
    seen = []
    model.norm2.register_forward_hook(lambda _m, _i, out: seen.append(weakref.ref(out)))
    gc.disable()
    try:
        relevance = variant(model).attribute(x, 0, create_graph=True)
        del relevance
        assert seen[0]() is None
    finally:
        gc.enable()


def test_threads_share_a_model(residual):
    model, x = residual
    explainers = [LRPEpsilonPlus(model), LRPUniformEpsilon(model)] * 4
    expected = [e.attribute(x, 0) for e in explainers]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda e: e.attribute(x, 0), explainers))
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


def test_a_rule_on_a_whole_module():
    """A BasicHook on a module of the user's own: equal to zennit, with an exact derivative."""

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.rand(6) + 0.5), nn.Parameter(torch.randn(6))

        def forward(self, x):
            return x * self.weight + self.bias

    z = zennit_rules.zennit()
    model = nn.Sequential(nn.Linear(4, 6), Scale(), nn.Tanh(), nn.Linear(6, 3)).double()
    composite = z.composites.LayerMapComposite(
        [(Scale, z.rules.AlphaBeta(stabilizer=1e-3)), (nn.Linear, z.rules.Epsilon(1e-2)), (nn.Tanh, z.rules.Pass())]
    )
    x, targets = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    leaf = x.clone().requires_grad_()
    with composite.context(model):
        output = model(leaf)
        seed = torch.zeros_like(output).scatter_(1, targets[:, None], 1.0) * output.detach()
        (theirs,) = torch.autograd.grad(output, leaf, seed)
    explainer = LRP(model, composite=composite)
    torch.testing.assert_close(explainer.attribute(x, targets), theirs, rtol=1e-10, atol=1e-12)
    assert directional_derivative_error(explainer, x, targets) < 1e-5


@pytest.mark.parametrize(("low", "high"), [(3, -3), (0, 0), (torch.zeros(1, 2, 1, 1), torch.tensor(0.0))])
def test_the_box_has_an_inside(low, high):
    with pytest.raises(InvalidInputError, match="low must lie below high"):
        LRPEpsilonGammaBox(low=low, high=high)


def test_looked_up_rules_do_not_become_stale(residual):
    """Rules are looked up once: other settings, another composite and a changed model still get their own."""
    model, x = residual
    first = LRPEpsilonGammaBox(model).attribute(x, 0)
    assert not torch.equal(LRPEpsilonGammaBox(model, gamma=0.9).attribute(x, 0), first)
    assert torch.equal(LRPEpsilonGammaBox(model).attribute(x, 0), first)

    class Kernel(nn.Conv2d):  # another type in the first layer's place
        pass

    kernel = Kernel(2, 4, 3, padding=1, bias=False).double()
    kernel.weight = model.conv1.weight
    plain, model.conv1 = model.conv1, kernel
    assert torch.equal(LRPEpsilonGammaBox(model).attribute(x, 0), first)
    model.conv1 = nn.Sequential(nn.Identity(), plain)
    assert torch.equal(LRPEpsilonGammaBox(model).attribute(x, 0), first)


def test_looked_up_rules_let_types_go():
    zennit_rules.zennit()

    class Odd(nn.Linear):
        pass

    LRPEpsilonPlus(Odd(4, 2)).attribute(torch.randn(2, 4), 0)
    known = weakref.ref(Odd)
    del Odd
    gc.collect()
    assert known() is None


def test_a_composite_that_is_registered_on_the_model(residual):
    model, x = residual
    composite = zennit_rules.zennit().composites.EpsilonPlus()
    with composite.context(model), pytest.raises(InvalidInputError, match=r"'conv1' \(Conv2d\) carries zennit's ZPlus"):
        LRPEpsilonPlus(model).attribute(x, 0)
    assert LRPEpsilonPlus(model).attribute(x, 0).isfinite().all()


@pytest.mark.parametrize("shape", [(5, 1, 1), (3,), (5, 2, 6, 6), (1, 3, 2, 6, 6)])
def test_bounds_that_do_not_broadcast(residual, shape):
    model, x = residual
    high = torch.ones(shape).double()
    words = rf"low of shape {re.escape(str(shape))}.* must broadcast against the input, which has shape \(3, 2, 6, 6\)"
    with pytest.raises(InvalidInputError, match=words):
        LRPEpsilonGammaBox(model, low=-high, high=high).attribute(x, 0)
    with pytest.raises(InvalidInputError, match=f"high of shape {re.escape(str(shape))}"):
        LRPEpsilonGammaBox(model, high=high).attribute(x, 0)


def test_bounds_that_do_not_broadcast_against_each_other():
    with pytest.raises(InvalidInputError, match=r"against each other, got shapes \(3,\) and \(2,\)"):
        LRPEpsilonGammaBox(low=torch.zeros(3), high=torch.ones(2))
    LRPEpsilonGammaBox(low=torch.zeros(1, 2, 1, 1), high=torch.ones(1, 1, 6, 6))


@pytest.mark.parametrize("shape", [(2, 1, 1), (6,), (6, 1), (1, 2, 1, 1), (1, 1, 6, 6)])
def test_bounds_broadcast_as_everywhere_in_torch(residual, shape):
    model, x = residual
    low = -2 - torch.rand(shape).double()
    full = LRPEpsilonGammaBox(model, low=low.expand(1, 2, 6, 6).clone()).attribute(x, 0)
    assert torch.equal(LRPEpsilonGammaBox(model, low=low).attribute(x, 0), full)
    assert torch.equal(LRPEpsilonGammaBox(model, low=low.expand(3, 2, 6, 6).clone()).attribute(x, 0), full)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_the_split_of_the_gap_is_saved(residual, ending, tmp_path):
    model, x = residual
    explained = LRPEpsilonPlus(model).explain(x, 0)
    again = Attribution.load(explained.save(tmp_path / f"relevance.{ending}"))
    assert (again.absorbed, again.lost) == (explained.absorbed, {})
    assert torch.equal(again.values, explained.values)
    assert torch.equal(again.gap, explained.gap)


def test_a_model_and_an_input_of_different_precision(variant):
    for layer, x in ((nn.Linear(4, 3), torch.randn(2, 4)), (nn.Conv1d(2, 3, 2), torch.randn(2, 2, 4))):
        model = nn.Sequential(layer, nn.Flatten()).half()
        with pytest.raises(InvalidTypeError, match=r"holds torch.float16 parameters and fails on torch.float32 inputs"):
            variant(model).attribute(x, 0)


def test_a_composite_that_its_name_does_not_settle():
    with pytest.raises(InvalidInputError, match="EpsilonGammaBox needs low and high, so its name is not enough"):
        LRP(nn.Linear(3, 2), composite="epsilon_gamma_box").attribute(torch.rand(2, 3), 0)

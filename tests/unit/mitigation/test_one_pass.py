"""One pass for the task and the explanation where the modes agree; weights, balance, precision."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError
from xaikit.explainers import Gradient, SmoothGrad
from xaikit.mitigation import HINT, RRR
from xaikit.mitigation.penalties import gradient_ratio
from xaikit.testing import derivative_error

EXTRA = {"plain": nn.Identity, "batchnorm": lambda: nn.BatchNorm2d(4), "dropout": lambda: nn.Dropout(0.5)}


def net(extra="plain"):
    torch.manual_seed(1)
    hidden = (nn.Conv2d(1, 4, 3), EXTRA[extra](), nn.Softplus(), nn.Flatten(), nn.Linear(64, 3))
    return nn.Sequential(*hidden).double().train()


def batch(n=5):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, 1, 6, 6, generator=generator, dtype=torch.float64)
    mask = torch.zeros(6, 6, dtype=torch.float64)
    mask[:2, :3] = 1
    return x, torch.arange(n) % 3, mask


def passes(model, mitigator):
    mitigator.loss(model, batch(), seed=0)  # the first call gets to know a model
    count = []
    handle = model.register_forward_hook(lambda *_: count.append(1))
    mitigator.loss(model, batch(), seed=0)
    handle.remove()
    return len(count)


@pytest.mark.parametrize(
    ("extra", "settings", "expected"),
    [
        ("plain", {}, 1),
        ("plain", {"explainer": "gradient_x_input"}, 1),
        ("plain", {"explainer": "gradcam"}, 1),
        ("plain", {"explainer": Gradient(layer="0")}, 1),
        ("plain", {"explainer": {"name": "gradcam", "settings": {"layer": "0"}}}, 1),
        ("plain", {"mode": "eval"}, 2),
        ("plain", {"explainer": "integrated_gradients:n_steps=3"}, 2),
        ("batchnorm", {}, 2),
        ("batchnorm", {"mode": "train"}, 1),
        ("dropout", {}, 2),
        ("dropout", {"mode": "train"}, 1),
    ],
)
def test_how_many_passes(extra, settings, expected):
    assert passes(net(extra), RRR(**settings)) == expected
    if extra != "plain":
        assert passes(net(extra).eval(), RRR()) == 1


def gradients(model, mitigator, **options):
    model.zero_grad(set_to_none=True)
    loss = mitigator.loss(model, batch(), seed=0, **options)
    loss.total.backward()
    return loss, [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize(
    "explainer", ["gradient", "gradient_x_input", "gradcam", Gradient(layer="0"), Gradient(layer=("2",))]
)
@pytest.mark.parametrize("make", [RRR, HINT])
def test_one_pass_gives_what_two_give(make, explainer):
    model = net()
    mitigator = make(explainer=explainer)
    expected = gradients(model, mitigator, weight=0.0)[0]
    (one, a), (two, b) = (gradients(model, make(explainer=explainer, mode=mode)) for mode in ("auto", "eval"))
    for name in ("task", "penalty", "total", "logits"):
        assert torch.allclose(getattr(one, name), getattr(two, name), rtol=1e-12, atol=1e-14)
    assert torch.allclose(one.penalty, expected.penalty, rtol=1e-12)
    for g, h in zip(a, b, strict=True):
        assert torch.allclose(g, h, rtol=1e-10, atol=1e-13)


def test_a_frozen_beginning_and_an_in_place_sequel():
    """The layer's output needs no gradient of its own, and what follows it works in place."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(64, 3)).double()
    model[0].requires_grad_(False)
    found = []
    for mode in ("auto", "eval"):
        mitigator = RRR(explainer=Gradient(layer="0"), mode=mode)
        model.zero_grad(set_to_none=True)
        loss = mitigator.loss(model, batch(), seed=0)
        loss.total.backward()
        found.append((loss.total.detach(), model[3].weight.grad.clone()))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_evaluation_mode_is_what_is_explained_unless_asked():
    model = net("batchnorm")
    x, y, mask = batch()
    expected = copy.deepcopy(model)  # at the statistics from before the step, which do not hang on the weights
    found, _ = gradients(model, RRR())
    assert int(model[1].num_batches_tracked) == 1
    assert not torch.equal(expected[1].running_mean, model[1].running_mean)
    v = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(expected.eval()(v).log_softmax(-1).gather(1, y[:, None]).sum(), v)
    assert torch.allclose(found.penalty, (mask * g**2).sum())


@pytest.mark.parametrize("explainer", ["gradient", "smoothgrad:n_iter=4,max_rows=5", "lrp_epsilon_plus"])
@pytest.mark.parametrize("extra", ["batchnorm", "dropout"])
def test_the_mode_of_training_on_demand(extra, explainer):
    """Only the pass of the task loss updates BatchNorm's statistics, however many passes the explanation needs."""
    model, plain = net(extra), net(extra)
    x, y, mask = batch()
    loss, _ = gradients(model, RRR(mode="train", explainer=explainer))
    plain(x)
    for a, b in zip(model.buffers(), plain.buffers(), strict=True):
        assert torch.allclose(a, b)
    if extra == "batchnorm" and explainer == "gradient":
        v = x.clone().requires_grad_()
        logits = net(extra)(v)
        (g,) = torch.autograd.grad(logits.log_softmax(-1).gather(1, y[:, None]).sum(), v, create_graph=True)
        assert torch.allclose(loss.penalty, (mask * g**2).sum())
        assert torch.allclose(loss.task, F.cross_entropy(logits, y))


@pytest.mark.parametrize("explainer", ["gradient", "smoothgrad:n_iter=4,max_rows=5", Gradient(layer="0")])
def test_the_penalty_in_the_mode_of_training_is_exact(explainer):
    """Through the batch's statistics, too: finite differences along one direction of all parameters."""
    model, mitigator = net("batchnorm"), RRR(mode="train", explainer=explainer)
    parameters = list(model.parameters())
    value = mitigator.loss(model, batch(), seed=0).penalty
    torch.manual_seed(2)
    direction = [torch.randn_like(p) for p in parameters]
    grads = torch.autograd.grad(value, parameters, allow_unused=True)
    exact = sum(float((g * d).sum()) for g, d in zip(grads, direction, strict=True) if g is not None)
    ends, step = [], 1e-6
    for sign in (step, -2 * step):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=sign)
        ends.append(float(mitigator.loss(model, batch(), seed=0).penalty.detach()))
    assert exact == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5)


def test_dropout_is_drawn_anew_in_every_step_of_the_shared_pass():
    model, mitigator = net("dropout"), RRR(mode="train")
    torch.manual_seed(0)
    first, second = (mitigator.loss(model, batch()).task for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(mitigator.loss(model, batch()).task, first)


def test_a_bad_label_in_the_shared_pass_is_told():
    x, _, mask = batch()
    with pytest.raises(InvalidInputError, match="labels must lie in 0..2 for a model with 3 outputs, got 9"):
        RRR().loss(net(), (x, torch.full((5,), 9), mask))


@pytest.mark.parametrize("layer", [None, "0"])
@pytest.mark.parametrize(
    "explainer", ["smoothgrad:n_iter=4,max_rows={}", "integrated_gradients:n_steps=4,max_rows={}",
                  "expected_gradients:n_iter=4,max_rows={}", "vargrad:n_iter=4,max_rows={}"]
)  # fmt: skip
def test_passes_computed_again_in_the_backward_change_nothing(explainer, layer):
    """Cut into passes, the graph of each is dropped and built again: same gradient, and finite differences agree."""
    from xaikit.core import as_explainer

    model, (x, y, mask) = net(), batch()
    whole, cut = (as_explainer(explainer.format(rows)).set_kwargs(layer=layer) for rows in (1000, 3))
    assert derivative_error(cut.bind(model), x, y) < 1e-5
    mask = mask if layer is None else torch.ones(4, 4)
    found = []
    for e in (whole, cut):
        model.zero_grad(set_to_none=True)
        RRR(explainer=e).loss(model, (x, y, mask), seed=1).total.backward()
        found.append([p.grad.clone() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_passes_computed_again_meet_the_model_as_it_was_explained():
    """During the backward pass, the model is in training mode again."""
    model, (x, y, mask) = net("dropout"), batch()
    mitigator = RRR(explainer=SmoothGrad(n_iter=4, max_rows=5), lambda_rrr=1e6)
    penalty = mitigator.loss(model, (x, y, mask), seed=0).penalty
    before = torch.random.get_rng_state()
    penalty.backward()
    assert model[1].training
    assert torch.equal(before, torch.random.get_rng_state())
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.eval().zero_grad(set_to_none=True)
    mitigator.loss(model, (x, y, mask), seed=0).penalty.backward()
    for a, b in zip(found, [p.grad for p in model.parameters() if p.grad is not None], strict=True):
        assert torch.allclose(a, b)


def test_gradients_reach_what_a_target_function_holds():
    model, (x, _, _) = net(), batch()
    held = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for rows in (1000, 5):
        a = SmoothGrad(model, n_iter=4, max_rows=rows).attribute(x, lambda out: (out * held).sum(1), create_graph=True)
        (g,) = torch.autograd.grad(a.square().sum(), held)
        assert g.abs().sum() > 0


def test_warm_up_and_a_weight_of_the_call():
    assert [RRR(lambda_rrr=4.0).weight_at(e) for e in (0, 3)] == [4.0, 4.0]
    warm = RRR(lambda_rrr=4.0, warmup=4.0)
    assert [warm.weight_at(e) for e in (0, 1, 4, 5)] == [0.0, 1.0, 4.0, 4.0]
    model = net()
    a, g = gradients(model, RRR(lambda_rrr=3.0))
    b, h = gradients(model, RRR(), weight=3.0)
    assert torch.equal(a.total, b.total)
    assert all(torch.equal(p, q) for p, q in zip(g, h, strict=True))


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_balance_makes_one_weight_carry_over(size):
    class Scaled(Gradient):
        """An explainer whose attributions have another order of magnitude."""

        def _attribute(self, call):
            return tuple(size * a for a in super()._attribute(call))

    model = net()
    task = gradients(model, RRR(), weight=0.0)[1]
    norm = torch.cat([g.flatten() for g in task]).norm()
    sums = []
    for explainer in (Gradient(), Scaled()):
        _, total = gradients(model, RRR(explainer=explainer, balance=True, lambda_rrr=0.5))
        part = torch.cat([(t - g).flatten() for t, g in zip(total, task, strict=True)])
        assert torch.allclose(part.norm(), 0.5 * norm)
        sums.append(part)
    assert torch.allclose(*sums)


def test_balance_without_anything_to_balance():
    model, (x, y, mask) = net(), batch()
    loss = RRR(balance=True).loss(model, (x, y, mask * 0), seed=0)
    assert torch.equal(loss.total, loss.task)
    nothing = torch.tensor(2.0)
    assert float(gradient_ratio(loss.task, nothing, model.parameters())) == 0


def test_the_penalty_is_in_float32_under_autocast():
    model, (x, y, mask) = net().float(), batch()
    x, mask = x.float(), mask.float()
    expected = RRR().loss(model, (x, y, mask)).penalty
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = RRR().loss(model, (x, y, mask))
        low = RRR().loss(model, (x.bfloat16(), y, mask)).penalty
    assert loss.logits.dtype == torch.bfloat16
    assert loss.penalty.dtype == low.dtype == torch.float32
    assert torch.equal(loss.penalty, expected)
    loss.total.backward()
    half = RRR().loss(net().bfloat16(), (x.bfloat16(), y, mask))
    assert half.penalty.dtype == torch.float32

"""MoRF, LeRF, AbPC against a plain loop, a closed form and captum's ablation, and at their edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from xaikit.core import METRICS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnboundError, UnknownNameError
from xaikit.explainers import Gradient, GradientXInput
from xaikit.metrics import AbPC, Deletion, Insertion, LeRF, MoRF


def conv_net(dims: int = 2) -> nn.Module:
    conv, pool = (nn.Conv1d, nn.AdaptiveAvgPool1d) if dims == 1 else (nn.Conv2d, nn.AdaptiveAvgPool2d)
    return nn.Sequential(conv(3, 4, 3, padding=1), nn.Tanh(), pool(2), nn.Flatten(), nn.Linear(4 * 2**dims, 5)).double()


def plain_loop(model, x, target, attribution, n_steps, order, baseline=0.0, softmax=True):
    """One sample, one step, one forward pass at a time, in numpy."""
    areas = []
    for sample, label, a in zip(x, target.tolist(), attribution, strict=True):
        places = a.numpy().sum(0) if a.ndim > 1 else a.numpy()
        ranking = np.argsort(-places.ravel(), kind="stable")
        ranking = ranking if order == "morf" else ranking[::-1]
        steps = min(n_steps, len(ranking))
        shares, values = [], []
        for k in range(steps + 1):
            count = round(k * len(ranking) / steps)
            changed = sample.numpy().copy()
            flat = changed.reshape(-1, len(ranking)) if a.ndim > 1 else changed.reshape(1, -1)
            flat[:, ranking[:count]] = baseline
            out = model(torch.from_numpy(flat.reshape(sample.shape))[None]).detach()[0].numpy()
            values.append((np.exp(out) / np.exp(out).sum())[label] if softmax else out[label])
            shares.append(count / len(ranking))
        areas.append(
            sum((b - a) * (u + v) / 2 for a, b, u, v in zip(shares, shares[1:], values, values[1:], strict=False))
        )
    return torch.tensor(areas, dtype=torch.float64)


SHAPES = [(7,), (23,), (3, 11), (3, 6, 5)]


def net_for(shape):
    return (
        nn.Sequential(nn.Linear(shape[0], 6), nn.Tanh(), nn.Linear(6, 5)).double()
        if len(shape) == 1
        else conv_net(len(shape) - 1)
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("metric", "order"), [(MoRF, "morf"), (LeRF, "lerf")])
@pytest.mark.parametrize("output", ["probability", "score"])
def test_areas_equal_a_plain_loop(shape, metric, order, output):
    model, x = net_for(shape), torch.randn(4, *shape, dtype=torch.float64)
    target, attribution = torch.tensor([0, 1, 4, 2]), torch.randn(4, *shape, dtype=torch.float64)
    found = metric(n_steps=10, output=output, baseline=0.3).evaluate(Gradient(model), x, target, attribution)
    expected = plain_loop(model, x, target, attribution, 10, order, 0.3, output == "probability")
    assert torch.allclose(found, expected, atol=1e-12)


def test_abpc_is_lerf_minus_morf_and_curves_hold_their_points():
    model, x, target = conv_net(), torch.randn(5, 3, 6, 6).double(), torch.arange(5)
    explainer = GradientXInput(model)
    curves = AbPC(n_steps=4).curves(explainer, x, target)
    assert curves.fraction.tolist() == [0, 0.25, 0.5, 0.75, 1]
    probability = model(x).softmax(1).gather(1, target[:, None])[:, 0].detach()
    assert torch.allclose(curves.morf[:, 0], probability)
    assert torch.equal(curves.morf[:, 0], curves.lerf[:, 0])
    assert torch.equal(curves.morf[:, -1], curves.lerf[:, -1])
    areas = {m: m(n_steps=4).evaluate(explainer, x, target) for m in (MoRF, LeRF, AbPC)}
    assert torch.allclose(areas[AbPC], areas[LeRF] - areas[MoRF])


@given(st.integers(1, 40), st.integers(1, 15))
@settings(max_examples=30, deadline=None)
def test_closed_form_of_equal_weights(features, n_steps):
    """For f(x) = sum x and x = 1 the output after a share t is P (1 - t), whatever the ranking: the area is P / 2."""
    model = nn.Linear(features, 1, bias=False).double()
    nn.init.ones_(model.weight)
    x = torch.ones(2, features).double()
    attribution = torch.randn(2, features).double()
    for metric in (MoRF, LeRF):
        area = metric(n_steps=n_steps).evaluate(Gradient(model), x, None, attribution)
        assert torch.allclose(area, torch.full((2,), features / 2).double())
    abpc = AbPC(n_steps=n_steps).evaluate(Gradient(model), x, None, attribution)
    assert torch.allclose(abpc, torch.zeros(2).double(), atol=1e-12)


def test_closed_form_of_one_feature_that_counts():
    """f(x) = x_0 on P features in P steps: MoRF falls at once (area 1 / 2P), LeRF in the last step (1 - 1 / 2P)."""
    model = nn.Linear(8, 1, bias=False).double()
    model.weight.data = torch.eye(8)[:1].double()
    x = torch.ones(1, 8).double()
    kwargs = {"explainer": GradientXInput(model), "inputs": x}
    assert math.isclose(MoRF(n_steps=8).evaluate(**kwargs).item(), 1 / 16)
    assert math.isclose(LeRF(n_steps=8).evaluate(**kwargs).item(), 1 - 1 / 16)
    assert math.isclose(AbPC(n_steps=8).evaluate(**kwargs).item(), 1 - 2 / 16)


def test_first_step_equals_captums_ablation():
    """With one feature per step, MoRF's first drop is captum's ablation of the top feature."""
    captum_attr = pytest.importorskip("captum.attr")
    model, x = net_for((9,)), torch.randn(3, 9).double()
    ablation = captum_attr.FeatureAblation(model).attribute(x, target=1)
    curves = MoRF(n_steps=9, output="score").curves(Gradient(model), x, 1, ablation)
    assert torch.allclose(curves.morf[:, 0] - curves.morf[:, 1], ablation.amax(1))
    assert torch.allclose(curves.lerf[:, 0] - curves.lerf[:, 1], ablation.amin(1))


def test_oracle_beats_random_beats_its_reverse():
    model, x = nn.Linear(30, 4).double(), torch.randn(20, 30).double()
    oracle = GradientXInput(model).attribute(x, 2)
    values = [
        AbPC(output="score").evaluate(Gradient(model), x, 2, a).mean().item()
        for a in (oracle, torch.randn(20, 30).double(), -oracle)
    ]
    assert values[0] > values[1] > values[2]
    assert METRICS.get("abpc").DIRECTION == "maximize"
    assert METRICS.get("lerf").DIRECTION == "maximize"
    assert METRICS.get("morf").DIRECTION == "minimize"


@pytest.mark.parametrize("max_rows", [1, 3, 7, 1000])
@pytest.mark.parametrize("target", [torch.tensor([0, 1, 2, 3, 4]), 2, lambda out: out[:, 0] - out[:, 1]])
def test_size_of_the_passes_does_not_matter(max_rows, target):
    model, x = conv_net(), torch.randn(5, 3, 6, 6).double()
    explainer = GradientXInput(model)
    whole = AbPC().evaluate(explainer, x, target)
    assert torch.allclose(AbPC(max_rows=max_rows).evaluate(explainer, x, target), whole, atol=1e-12)


def test_passes_are_bounded_and_no_step_is_run_twice():
    rows = []

    class Counting(nn.Module):
        def forward(self, x):
            rows.append(len(x))
            return x.flatten(1)[:, :3]

    x = torch.rand(6, 1, 4, 4)
    explainer = Gradient(Counting())
    AbPC(n_steps=10, max_rows=8).evaluate(explainer, x, 0, torch.rand(6, 1, 4, 4))
    rows.clear()  # the first call gets to know a model
    AbPC(n_steps=10, max_rows=8).evaluate(explainer, x, 0, torch.rand(6, 1, 4, 4))
    assert max(rows) <= 8
    assert sum(rows) == 6 * 2 * 10


def test_sample_alone_equals_sample_in_a_batch():
    model, x, target = conv_net(), torch.randn(5, 3, 6, 6).double(), torch.arange(5)
    for baseline in ("zeros", "mean", "uniform"):
        metric = AbPC(baseline=baseline)
        whole = metric.evaluate(GradientXInput(model), x, target)
        alone = torch.cat([metric.evaluate(GradientXInput(model), x[i : i + 1], target[i]) for i in range(5)])
        assert torch.allclose(whole, alone, atol=1e-12)


def test_baseline_tensor_of_the_batch_follows_its_samples():
    model, x = conv_net(), torch.randn(5, 3, 6, 6).double()
    metric = MoRF(baseline=torch.randn(5, 3, 6, 6))
    whole = metric.evaluate(GradientXInput(model), x, 1)
    assert torch.allclose(metric.set_kwargs(max_rows=2).evaluate(GradientXInput(model), x, 1), whole, atol=1e-12)


@pytest.mark.parametrize("pooling", ["sum", "l1norm", "maxnorm", "none"])
def test_pooling_of_channels(pooling):
    model, x = conv_net(), torch.randn(2, 3, 4, 4).double()
    attribution = torch.randn_like(x)
    pooled = {
        "sum": attribution.sum(1, keepdim=True),
        "l1norm": attribution.abs().sum(1, keepdim=True),
        "maxnorm": attribution.abs().amax(1, keepdim=True),
        "none": attribution,
    }[pooling]
    top = pooled.flatten(1).argmax(1)
    mask = torch.ones_like(pooled).flatten(1).scatter(1, top[:, None], 0).unflatten(1, pooled.shape[1:])
    expected = model(x * mask)[:, 0].detach()
    metric = MoRF(n_steps=pooled[0].numel(), pooling=pooling, output="score")
    assert torch.allclose(metric.curves(Gradient(model), x, 0, attribution).morf[:, 1], expected)


def test_channels_may_stand_last():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    x, attribution = torch.randn(2, 4, 3).double(), torch.randn(2, 4, 3).double()
    curves = MoRF(n_steps=4, channel_axis=-1, output="score").curves(Gradient(model), x, 1, attribution)
    changed = x.clone()
    changed[torch.arange(2), attribution.sum(2).argmax(1)] = 0
    assert torch.allclose(curves.morf[:, 1], model(changed)[:, 1].detach())
    with pytest.raises(InvalidInputError, match="channel_axis=3 is no axis"):
        MoRF(channel_axis=3).evaluate(Gradient(model), x, 1)
    with pytest.raises(InvalidInputError, match="batch axis"):
        MoRF(channel_axis=0)


def test_several_inputs_are_ranked_together():
    class Sum(nn.Module):
        def forward(self, a, b):
            return a.sum(1) + 10 * b.sum(1)

    a, b = torch.ones(2, 3), torch.ones(2, 2)
    explainer = GradientXInput(Sum())
    curves = MoRF(n_steps=5).curves(explainer, (a, b))
    assert curves.morf[0].tolist() == [23, 13, 3, 2, 1, 0]
    assert torch.equal(MoRF(n_steps=5).curves(explainer, {"a": a, "b": b}).morf, curves.morf)


def test_at_a_layer():
    model, x = conv_net(), torch.randn(3, 3, 6, 6).double()
    explainer = GradientXInput(model, layer="1")
    rest, hidden = model[2:], model[:2](x).detach()
    for attributions in (None, explainer.attribute(x, 1)):
        found = AbPC().evaluate(explainer, x, 1, attributions)
        assert torch.allclose(found, AbPC().evaluate(GradientXInput(rest), hidden, 1))


def test_tokens_go_one_by_one_at_their_embedding():
    """Nobody says where the channels are: whole numbers (N, T) are tokens, and their vectors go as a whole."""
    model = nn.Sequential(nn.Embedding(9, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)).double()
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    explainer = GradientXInput(model, layer="0")
    order = explainer.attribute(ids, 1).sum(2).argsort(1, descending=True)
    vectors, curve = model[0](ids).detach(), []
    for k in range(5):
        for i in range(2):
            vectors[i, order[i, :k]] = 0
        curve.append(model[1:](vectors).softmax(1)[:, 1])
    found = MoRF().curves(explainer, ids, 1)
    assert torch.allclose(found.morf, torch.stack(curve, 1).detach())
    assert not torch.allclose(MoRF(channel_axis=1).evaluate(explainer, ids, 1), MoRF().evaluate(explainer, ids, 1))
    for name in ("mu_fidelity", "infidelity", "non_sensitivity"):
        metric = METRICS.create(name)
        values = metric.set_kwargs(feature_mask="tokens").evaluate(explainer, ids, 1)
        assert torch.equal(metric.evaluate(explainer, ids, 1), values)


def test_fewer_features_than_steps():
    model, x = nn.Linear(3, 2).double(), torch.randn(4, 3).double()
    few, exact = AbPC(n_steps=10), AbPC(n_steps=3)
    assert torch.equal(few.evaluate(GradientXInput(model), x, 0), exact.evaluate(GradientXInput(model), x, 0))
    single = AbPC().evaluate(GradientXInput(nn.Linear(1, 2).double()), torch.ones(2, 1).double(), 0)
    assert torch.equal(single, torch.zeros(2).double())


def test_what_is_watched():
    x = torch.randn(4, 6).double()
    single = nn.Linear(6, 1).double()
    explainer = GradientXInput(single)
    assert torch.equal(MoRF().evaluate(explainer, x), MoRF(output="score").evaluate(explainer, x))
    start = MoRF(output="probability").curves(explainer, x).morf[:, 0]
    assert torch.allclose(start, single(x)[:, 0].sigmoid().detach())
    several = nn.Linear(6, 3).double()
    chosen = lambda out: out[:, 1]
    explainer = GradientXInput(several)
    assert torch.allclose(MoRF().curves(explainer, x, chosen).morf[:, 0], several(x)[:, 1].detach())
    start = MoRF(output="probability").curves(explainer, x, chosen).morf[:, 0]
    assert torch.allclose(start, several(x).softmax(1)[:, 1].detach())


def test_model_stays_as_it_was():
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)), torch.randn(3, 4)
    model.train()
    state = torch.random.get_rng_state()
    first = AbPC().evaluate(Gradient(model), x, 0)
    assert torch.equal(first, AbPC().evaluate(Gradient(model), x, 0))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not first.requires_grad


def test_an_attribution_that_is_not_finite_gives_nan_for_its_sample_only():
    model, x, attribution = nn.Linear(4, 2), torch.randn(3, 4), torch.randn(3, 4)
    attribution[1, 2] = torch.nan
    found = AbPC().evaluate(Gradient(model), x, 0, attribution)
    assert found.isnan().tolist() == [False, True, False]


def test_bad_input_ends_in_a_sentence():
    model, x = conv_net(), torch.randn(2, 3, 6, 6).double()
    with pytest.raises(
        InvalidInputError, match=r"shape of what is explained, \(2, 3, 6, 6\), or size 1 .*, got \(2, 3, 6, 5\)"
    ):
        AbPC().evaluate(Gradient(model), x, 0, torch.randn(2, 3, 6, 5))
    with pytest.raises(InvalidInputError, match="one tensor per explained input, 1, got 2"):
        AbPC().evaluate(Gradient(model), x, 0, (x, x))
    with pytest.raises(InvalidTypeError, match="attributions must hold tensors or arrays of numbers, got str"):
        AbPC().evaluate(Gradient(model), x, 0, "all of it")
    with pytest.raises(InvalidTypeError, match="measures an Explainer"):
        AbPC().evaluate(model, x, 0)
    with pytest.raises(UnboundError):
        AbPC().evaluate(Gradient(), x, 0)
    with pytest.raises(InvalidInputError, match="NaN or inf in sample 0"):
        AbPC().evaluate(Gradient(model), x * torch.nan, 0, x)
    with pytest.raises(InvalidInputError, match="n_steps must be >= 1, got 0"):
        AbPC(n_steps=0)
    with pytest.raises(UnknownNameError, match="unknown baseline 'zero'; did you mean 'zeros'"):
        AbPC(baseline="zero")
    with pytest.raises(InvalidInputError, match="must be one of 'auto'"):
        AbPC(output="logits")


def test_registered_and_a_value():
    assert {"abpc", "lerf", "morf"} <= set(METRICS)
    metric = METRICS.create("abpc:n_steps=5,baseline=mean")
    assert metric == METRICS.create(metric.spec())
    assert metric.n_steps == 5
    assert METRICS.create("morf") != METRICS.create("lerf")


def test_low_precision_model_is_watched_in_float32():
    model, x = nn.Linear(6, 3).bfloat16(), torch.randn(4, 6).bfloat16()
    found = AbPC().evaluate(GradientXInput(model), x, 0)
    assert found.dtype == torch.float32


@pytest.mark.parametrize("steps", [4, 18])
@pytest.mark.parametrize("metric", [Insertion, Deletion])
def test_insertion_and_deletion_equal_the_sources_loop(metric, steps):
    """Pixels go over one block at a time; the area is (sum - half of the two ends) / steps, as in the source's code."""
    model, x, a = conv_net(), torch.randn(3, 3, 6, 6).double(), torch.randn(3, 3, 6, 6).double()
    y, start = torch.tensor([0, 4, 2]), torch.randn(3, 6, 6).double()
    found = metric(n_steps=steps, baseline=start).evaluate(Gradient(model), x, y, a)
    for i in range(3):
        order = a[i].sum(0).flatten().argsort(descending=True)
        origin, goal = (start, x[i]) if metric is Insertion else (x[i], start)
        current, curve = origin.clone().flatten(1), []
        for block in [order[:0], *order.split(36 // steps)]:
            current[:, block] = goal.flatten(1)[:, block]
            curve.append(model(current.view(1, 3, 6, 6)).softmax(1)[0, y[i]].item())
        area = (sum(curve) - curve[0] / 2 - curve[-1] / 2) / steps
        assert math.isclose(found[i].item(), area, rel_tol=1e-9)


def test_insertion_and_deletion_of_a_regression_watch_its_output():
    """A linear model loses w_i x_i with feature i: the curve is a running sum, far outside of [0, 1]."""
    model, x = nn.Linear(5, 1, bias=False).double(), 10 * torch.randn(4, 5).double()
    parts = (model.weight * x).detach().numpy()
    falling = -np.sort(-parts, axis=1)
    left = parts.sum(1, keepdims=True) - np.concatenate([np.zeros((4, 1)), falling.cumsum(1)], axis=1)
    inserted = parts.sum(1, keepdims=True) - left
    for metric, curve in ((Deletion(), left), (Insertion(baseline="zeros"), inserted)):
        found = metric.evaluate(GradientXInput(model), x)
        assert np.allclose(found.numpy(), (curve[:, 1:] + curve[:, :-1]).mean(1) / 2)


def test_an_attribution_that_is_pooled_already_is_ranked_as_it_is():
    model, x, a = conv_net(), torch.randn(3, 3, 6, 6).double(), torch.randn(3, 3, 6, 6).double()
    pooled = a.abs().sum(1, keepdim=True) - 5
    found = AbPC(pooling="l1norm").evaluate(Gradient(model), x, 1, pooled)
    assert torch.equal(found, AbPC(pooling="sum").evaluate(Gradient(model), x, 1, pooled.expand_as(x)))
    tokens, relevance = torch.randn(2, 5, 4).double(), torch.randn(2, 5, 1).double()  # channels last
    net = nn.Sequential(nn.Flatten(), nn.Linear(20, 3)).double()
    found = AbPC().evaluate(Gradient(net), tokens, 1, relevance)
    assert torch.equal(found, AbPC(channel_axis=-1).evaluate(Gradient(net), tokens, 1, relevance.expand(2, 5, 4) / 4))


def test_accuracy_is_watched():
    model, x, y = conv_net(), torch.randn(6, 3, 6, 6).double(), torch.arange(6) % 5
    curves = MoRF(output="accuracy").curves(GradientXInput(model), x, y)
    assert torch.equal(curves.morf[:, 0], (model(x).argmax(1) == y).double())
    assert set(curves.morf.unique().tolist()) <= {0, 1}

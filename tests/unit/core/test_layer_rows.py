"""Layers that see several rows for each sample: towers joined along the batch, multiple choice, groups of patches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit import EXPLAINERS, GradCam, Gradient
from xaikit.core.errors import InvalidInputError


class Towers(nn.Module):
    """Two images through one encoder, joined along the batch or one after the other."""

    def __init__(self, joined):
        super().__init__()
        self.joined = joined
        self.encoder, self.act, self.out = nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Linear(48, 2)

    def forward(self, a, b):
        if self.joined:
            u, v = self.act(self.encoder(torch.cat([a, b]))).chunk(2)
        else:
            u, v = self.act(self.encoder(a)), self.act(self.encoder(b))
        return self.out((u * v.tanh()).flatten(1))


class Choices(nn.Module):
    """Answers (N, choices, features) flattened to rows, scored, and put beside each other."""

    def __init__(self, flat):
        super().__init__()
        self.flat, self.inner, self.act, self.out = flat, nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)

    def forward(self, x):
        n, choices, _ = x.shape
        rows = x.flatten(0, 1) if self.flat else x
        logits = self.out(self.act(self.inner(rows))).reshape(n, choices)
        return logits - logits.mean(1, keepdim=True)


def pair(make, *flags):
    models = []
    for flag in flags:
        torch.manual_seed(0)
        models.append(make(flag).double().eval())
    return models


METHODS = ("gradient", "gradient_x_input", "lrp_epsilon_plus", "lrp_uniform_epsilon")


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_towers_joined_along_the_batch_are_like_towers_one_after_the_other(spec, n):
    joined, apart = pair(Towers, True, False)
    inputs = (torch.rand(n, 1, 6, 6).double(), torch.rand(n, 1, 6, 6).double())
    make, layer = EXPLAINERS.create(spec), "encoder"
    found = make.set_kwargs(layer=layer).bind(joined).attribute(inputs, 1)
    expected = make.set_kwargs(layer=layer).bind(apart).attribute(inputs, 1)  # (N, runs, ...)
    assert found.shape == (n, 2, 3, 4, 4)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("spec", METHODS)
@pytest.mark.parametrize("n", [1, 2, 3])
def test_choices_flattened_to_rows_are_like_choices_kept_apart(spec, n):
    flat, whole = pair(Choices, True, False)
    x, target = torch.randn(n, 3, 4).double(), torch.tensor([2, 0, 1])[:n]
    explain = lambda model: EXPLAINERS.create(spec).set_kwargs(layer="inner").bind(model).attribute(x, target)
    assert explain(flat).shape == (n, 3, 5)
    assert torch.allclose(explain(flat), explain(whole), rtol=1e-9, atol=1e-12)


def test_several_layers_and_several_targets():
    flat, whole = pair(Choices, True, False)
    x = torch.randn(2, 3, 4).double()
    explain = lambda model: Gradient(model, layer=["inner", "act"]).attribute(x, ["class:index=0", "class:index=2"])
    for a, b in zip(explain(flat), explain(whole), strict=True):
        assert a.shape == (2, 2, 3, 5)
        assert torch.allclose(a, b, rtol=1e-9)


def test_a_penalty_at_such_a_layer_reaches_the_weights_before_it():
    flat, whole = pair(Choices, True, False)
    x = torch.randn(2, 3, 4).double()
    slopes = [
        torch.autograd.grad(
            Gradient(model, layer="inner").attribute(x, 1, create_graph=True).square().sum(), model.inner.weight
        )[0]
        for model in (flat, whole)
    ]
    assert torch.allclose(*slopes, rtol=1e-9)
    assert slopes[0].abs().max() > 0


def test_a_class_activation_map_at_a_layer_is_one_for_each_run():
    joined, apart = pair(Towers, True, False)
    inputs = (torch.rand(2, 1, 6, 6).double(), torch.rand(2, 1, 6, 6).double())
    found = [GradCam(model, layer="encoder").attribute(inputs, 1) for model in (joined, apart)]
    assert torch.allclose(*found, rtol=1e-9)
    kept = []
    handle = apart.encoder.register_forward_hook(lambda *a: kept.append(a[2]))
    score = apart(*inputs)[:, 1].sum()
    handle.remove()
    for run, activation in enumerate(kept):
        weights = torch.autograd.grad(score, activation, retain_graph=True)[0].mean((2, 3), keepdim=True)
        expected = (weights * activation).sum(1, keepdim=True).relu().expand(-1, 3, -1, -1).detach()
        assert torch.allclose(found[0][:, run], expected, rtol=1e-9)


def test_rows_of_nobody_are_refused_in_words():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            rows = self.inner(torch.cat([x, x]))
            return x + rows.mean(0)

    x = torch.rand(3, 3)
    with pytest.raises(InvalidInputError, match="returns 6 rows for 3 samples, and a sample's score depends on rows"):
        Gradient(Mixed(), layer="inner").attribute(x, 0)
    with pytest.raises(InvalidInputError, match="a method of a single gradient"):
        EXPLAINERS.create("integrated_gradients", layer="inner").bind(Choices(True)).attribute(torch.rand(2, 3, 4), 0)


class TimeFirst(nn.Module):
    """Its recurrent layer takes and returns (T, N, D), as torch's do by default."""

    def __init__(self):
        super().__init__()
        self.up, self.rnn, self.head = nn.Linear(4, 6), nn.GRU(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        h, _ = self.rnn(self.up(x).transpose(0, 1))
        return self.head(h.transpose(0, 1).mean(1))


@pytest.mark.parametrize("steps", [3, 5, 6])  # as many as samples, others, a multiple
@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "captum.feature_ablation"])
def test_a_layer_with_the_batch_second_is_refused(name, steps):
    torch.manual_seed(0)
    net, x = TimeFirst(), torch.randn(3, steps, 4)
    explainer = EXPLAINERS.create(name).bind(net)
    with pytest.raises(InvalidInputError, match=rf"'rnn' must .* \({steps}, 3, 6\) with the batch second; give its"):
        explainer.set_kwargs(layer="rnn").attribute(x, 0)
    assert explainer.set_kwargs(layer="up").attribute(x, 0).shape == (3, steps, 6)

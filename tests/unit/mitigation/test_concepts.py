"""Concept directions against closed forms and scikit-learn; the three compensations against what they promise."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC
from torch import nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.mitigation import AClArC, Concept, PClArC, RRClArC


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Tanh(), nn.Flatten(), nn.Linear(80, 3)).double()
    x, shown = torch.randn(60, 2, 6, 6).double(), torch.arange(60) % 3 == 0
    x[shown, 1] += 1.5
    return model, x, shown


def activations(model, x):
    return model[:2](x).detach()


def fit(case, method="pattern", **settings):
    model, x, shown = case
    return Concept.fit(model, x, shown, layer="1", method=method, **settings)


def test_the_pattern_is_the_covariance_with_the_label(case):
    model, x, shown = case
    a, t = activations(model, x).mean((2, 3)), shown.double()
    covariance = ((a - a.mean(0)) * (t - t.mean())[:, None]).mean(0) / ((t - t.mean()) ** 2).mean()
    concept = fit(case)
    assert torch.allclose(concept.direction, covariance / covariance.norm())
    assert torch.allclose(concept.absent, a[~shown].mean(0))
    assert torch.allclose(concept.present, a[shown].mean(0))


@pytest.mark.parametrize("method", ["ridge", "svm"])
def test_the_classifiers_are_those_of_scikit_learn(case, method):
    model, x, shown = case
    a = activations(model, x).mean((2, 3))
    scale = a.std(0, correction=0)
    z, t = ((a - a.mean(0)) / scale).numpy(), np.where(shown.numpy(), 1.0, -1.0)
    if method == "ridge":
        theirs = Ridge(alpha=1.0).fit(z, t).coef_
    else:
        # A large intercept scaling, since theirs penalises the intercept as well.
        svm = LinearSVC(C=1.0, loss="squared_hinge", dual=False, tol=1e-10, intercept_scaling=1e3, max_iter=100_000)
        theirs = svm.fit(z, t).coef_[0]
    expected = F.normalize(torch.from_numpy(theirs) / scale, dim=0)
    assert torch.allclose(fit(case, method).direction, expected, atol=1e-4)


def test_a_convolution_can_be_asked_and_a_table_and_tokens(case):
    model, x, shown = case
    assert torch.allclose(Concept.fit(model, x, shown.long(), layer=model[1]).direction, fit(case).direction)
    moved = nn.Sequential(*model[:2], Last())
    concept = Concept.fit(moved, x, shown, layer="2", channel_axis=-1)
    assert torch.allclose(concept.direction, fit(case).direction)
    table = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    rows = torch.rand(9, 3).double()
    assert Concept.fit(table, rows, torch.arange(9) % 2, layer="0").direction.shape == (4,)


class Last(nn.Module):
    """Channels last."""

    def forward(self, x):
        return x.movedim(1, -1)


def test_refusals(case):
    model, x, shown = case
    with pytest.raises(InvalidInputError, match="there must be both; got 60 true"):
        Concept.fit(model, x, shown | True, layer="1")
    with pytest.raises(InvalidInputError, match=r"labels must have shape \(60,\)"):
        Concept.fit(model, x, shown[:5], layer="1")
    with pytest.raises(UnknownNameError, match="no layer 'conv'"):
        Concept.fit(model, x, shown, layer="conv")
    with pytest.raises(InvalidInputError, match="method must be one of 'pattern', 'ridge', 'svm'"):
        fit(case, "lda")
    with pytest.raises(InvalidInputError, match="same activations with and without"):
        Concept.fit(model, x * 0, shown, layer="1")
    with pytest.raises(InvalidTypeError, match="RRClArC needs the setting 'concept'"):
        RRClArC()
    with pytest.raises(InvalidTypeError, match="must be a Concept, made by Concept.fit"):
        AClArC(concept=torch.ones(3))


@pytest.mark.parametrize("steps", [5, 8])  # 8: as many as samples
def test_a_layer_with_the_batch_second_is_refused(steps):
    class TimeFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.rnn, self.head = nn.Linear(4, 6), nn.GRU(6, 6), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.rnn(self.up(x).transpose(0, 1))[0].mean(0))

    net, x, shows = TimeFirst(), torch.randn(8, steps, 4), torch.arange(8) % 2
    with pytest.raises(InvalidInputError, match="'rnn' must keep the batch first"):
        Concept.fit(net, x, shows, layer="rnn", channel_axis=2)
    assert Concept.fit(net, x, shows, layer="up", channel_axis=2).direction.shape == (6,)


def test_projection_puts_every_sample_where_those_without_are(case):
    model, x, _ = case
    concept, before = fit(case), model(x)
    handle = PClArC(concept).apply(model)
    a = activations(model, x)
    along = torch.einsum("nchw,c->nhw", a - concept.absent.view(-1, 1, 1), concept.direction)
    assert along.abs().max() < 1e-12
    copy = pickle.loads(pickle.dumps(model))  # the compensation is saved with the model
    assert torch.equal(copy(x), model(x))
    assert not torch.allclose(model(x), before)
    handle.remove()
    assert torch.equal(model(x), before)
    across = activations(model, x) - a
    inside = torch.einsum("nchw,c,d->ndhw", across, concept.direction, concept.direction)
    assert torch.allclose(inside, across)  # nothing else has moved


class Gated(nn.Module):
    """Gets its map by name, beside a switch, and returns a second value."""

    def forward(self, *, features, scale=None):
        return features if scale is None else features * scale, features.new_zeros(len(features))


class AroundGate(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.first, self.gate, self.last = parts[:2], Gated(), parts[2:]

    def forward(self, x):
        return self.last(self.gate(features=self.first(x))[0])


def test_the_input_of_a_layer_holds_a_concept_as_the_output_before_it_does(case):
    model, x, shown = case
    y = torch.arange(60) % 3
    expected = fit(case)
    with PClArC(expected).apply(model):
        projected = model(x)
    augmented = AClArC(concept=expected).loss(model, (x, y)).penalty
    named = AroundGate(model)
    for net, layer in ((model, "2.input"), (named, "gate.input"), (named, "last.input")):
        concept = Concept.fit(net, x, shown, layer=layer)
        assert concept.layer == layer
        assert torch.allclose(concept.direction, expected.direction)
        with PClArC(concept).apply(net):
            assert torch.allclose(net(x), projected)
            assert torch.equal(pickle.loads(pickle.dumps(net))(x), net(x))
        assert torch.allclose(AClArC(concept=concept).loss(net, (x, y)).penalty, augmented)
    concept = dataclasses.replace(concept, layer="gate")  # what it returns is a tuple
    with PClArC(concept).apply(named):
        assert torch.allclose(named(x), projected)
    with (
        PClArC(dataclasses.replace(expected, layer="0.input")).apply(model),
        pytest.raises(InvalidInputError, match="has 0 tensors with 5 channels"),
    ):
        model(x)


def test_augmentation_is_the_loss_with_the_concept_everywhere(case):
    model, x, _ = case
    concept, y = fit(case), torch.arange(60) % 3
    a = activations(model, x)
    v, z = concept.direction.view(-1, 1, 1), concept.present.view(-1, 1, 1)
    moved = a - ((a - z) * v).sum(1, keepdim=True) * v
    loss = AClArC(concept=concept).loss(model, (x, y))
    assert torch.allclose(loss.penalty, F.cross_entropy(model[2:](moved), y))
    assert torch.allclose(loss.task, F.cross_entropy(model(x), y))


@pytest.mark.parametrize("target", ["label", "random"])
def test_the_gradient_along_the_concept(case, target):
    model, x, _ = case
    concept, y = fit(case), torch.arange(60) % 3
    w = model[3].weight.detach().view(3, 5, 4, 4)
    along = torch.einsum("kchw,c->khw", w, concept.direction)
    if target == "label":
        found = RRClArC(concept=concept, target="label").loss(model, (x, y)).penalty
        assert torch.allclose(found, (along[y] ** 2).flatten(1).sum(1).mean())
        half = torch.zeros(6, 6)
        half[:3] = 1
        assert 0 < RRClArC(concept=concept, target="label").loss(model, (x, y, half)).penalty < found
        return
    centred = along - along.mean(0)
    values = [float(RRClArC(concept=concept).loss(model, (x, y), seed=s).penalty.detach()) for s in range(60)]
    assert sum(values) / 60 == pytest.approx(float((centred**2).sum()), rel=0.1)


def test_a_mask_at_a_layer_without_positions_says_which_samples():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 2)).double()
    x, shown, y = torch.rand(6, 1, 4, 4).double(), torch.arange(6) % 2, torch.arange(6) % 2
    concept = Concept.fit(model, x, shown, layer="1")
    mask = torch.zeros(6, 4, 4)
    mask[:2, 0] = 1
    mitigator = RRClArC(concept=concept, target="label")
    expected = mitigator.loss(model, (x[:2], y[:2])).penalty
    assert torch.allclose(mitigator.loss(model, (x, y, mask)).penalty, expected)
    mitigator.set_kwargs(n_epochs=1).fit(model, x, y, progress=False)


@pytest.mark.parametrize("options", [{}, {"layer": None}, {"layer": ["1"]}, {"layer": 1}])
def test_a_layer_that_is_not_named_is_said(case, options):
    model, x, shown = case
    with pytest.raises(InvalidTypeError, match=r"needs layer=, .* such as '1' or '2', or measure .*concept_layers\("):
        Concept.fit(model, x, shown.tolist(), **options)
    with pytest.raises(InvalidTypeError, match=r"must be a Concept, made by Concept.fit\(model, x, labels"):
        PClArC()

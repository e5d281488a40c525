"""Model randomisation and the random logit: against Quantus where its draws can be had, and what they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.core import Explainer
from xaikit.core.errors import InvalidInputError
from xaikit.explainers import Gradient, GradientXInput
from xaikit.metrics import ModelRandomisation, RandomLogit
from xaikit.metrics.randomisation import kept, layers_from_output, randomise
from xaikit.metrics.similarity import cosine, pearson, spearman, ssim
from xaikit.testing import state_of


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3)).double()


@pytest.fixture
def case():
    return net().eval(), torch.randn(4, 1, 8, 8).double(), torch.tensor([0, 1, 2, 0])


class Constant(Explainer):
    """An explainer whose attribution does not depend on the model."""

    def _attribute(self, call):
        return tuple(x + 1 for x in call.inputs)


def test_an_explanation_that_ignores_the_model_stays_alike(case):
    model, x, y = case
    for order in ("cascading", "independent"):
        found = ModelRandomisation(order=order).evaluate(Constant(model), x, y)
        assert torch.allclose(found, torch.ones(4).double())
        assert bool((ModelRandomisation(order=order).evaluate(Gradient(model), x, y) < 0.9).all())
    assert torch.allclose(RandomLogit().evaluate(Constant(model), x, y), torch.ones(4).double())


def test_cascade_equals_a_loop_over_copies(case):
    """Layer by layer from the output, each drawn by its own reset with its own seed."""
    model, x, y = case
    original = GradientXInput(model).attribute(x, y).flatten(1)
    copy, expected = net().eval(), []
    copy.load_state_dict(model.state_dict())
    for i, layer in enumerate((4, 1, 0)):
        torch.manual_seed(5 + i)
        copy[layer].reset_parameters()
        expected.append(spearman(original, GradientXInput(copy).attribute(x, y).flatten(1)))
    found = ModelRandomisation().evaluate(GradientXInput(model), x, y, seed=5)
    assert torch.allclose(found, torch.stack(expected).mean(0))
    last = ModelRandomisation(n_stages=1).evaluate(GradientXInput(model), x, y, seed=5)
    assert torch.allclose(last, expected[-1])


@pytest.mark.parametrize("name", ["pearson", "cosine", "ssim"])
def test_named_similarities(case, name):
    model, x, y = case
    function = {"pearson": pearson, "cosine": cosine, "ssim": ssim}[name]
    a, b = (GradientXInput(model).attribute(x, t) for t in (y, (y + 1) % 3))
    found = [RandomLogit(similarity=name).evaluate(GradientXInput(model), x, y, seed=s) for s in range(8)]
    expected = function(a, b) if name == "ssim" else function(a.flatten(1), b.flatten(1))
    assert any(torch.allclose(f, expected) for f in found)
    assert not all(torch.allclose(f, expected) for f in found)  # another seed, another class
    absolute = RandomLogit(similarity="cosine", absolute=True).evaluate(GradientXInput(model), x, y)
    assert bool((absolute > 0).all())


def test_the_model_comes_back_bit_for_bit_whatever_happens(case):
    model, x, y = case
    with torch.no_grad():
        model[0].bias[0] = torch.nan  # a NaN has bits, too
    before = [t.clone() for t in model.state_dict().values()]

    class Failing(Constant):
        def _attribute(self, call):
            if not torch.equal(call.model[4].weight, before[-2]):
                raise RuntimeError("the weights have changed")
            return super()._attribute(call)

    for raised in (True, False):
        if raised:
            with pytest.raises(RuntimeError, match="the weights have changed"):
                ModelRandomisation().evaluate(Failing(model), x, y)
        else:
            ModelRandomisation().evaluate(Constant(model), x, y)
        for old, new in zip(before, model.state_dict().values(), strict=True):
            assert torch.equal(old.nan_to_num(9), new.nan_to_num(9))
            assert torch.equal(old.isnan(), new.isnan())


def test_restored_on_ctrl_c(case):
    model, x, y = case
    state = state_of(model)

    class Interrupted(Constant):
        def _attribute(self, call):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ModelRandomisation().evaluate(Interrupted(model), x, y, x)
    assert state_of(model) == state


def test_layers_come_in_the_order_in_which_they_run():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.unused = nn.Linear(4, 2), nn.Linear(4, 4)
            self.scale = nn.Parameter(torch.randn(4))
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.first = nn.Linear(4, 4)

        def forward(self, x):
            h = self.first(x * self.scale)[:, None]
            return self.last(self.attention(h, h, h)[0][:, 0])

    model, order = Backwards(), []

    class Spy(Gradient):
        def _attribute(self, call):
            order.extend(layers_from_output(call))
            return super()._attribute(call)

    Spy(model).attribute(torch.randn(2, 4), 0)
    # What never runs by itself goes with what it belongs to: the attention's own projection, the unused layer.
    expected = [[model.last], [model.attention, model.attention.out_proj], [model.first], [model, model.unused]]
    assert order == expected
    before = model.scale.detach().clone()
    with kept(model):
        randomise(model)  # no reset of its own: shuffled
        assert sorted(model.scale.tolist()) == sorted(before.tolist())
        randomise(model.attention)
    assert torch.equal(model.scale, before)


def test_random_logit_of_two_classes_equals_quantus(quantus):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 2)).double()
    x, y = torch.randn(5, 1, 8, 8).double(), torch.tensor([0, 1, 1, 0, 1])

    def explain(model, inputs, targets, **_):
        return GradientXInput(model).attribute(torch.as_tensor(inputs), torch.as_tensor(targets)).numpy()

    a = GradientXInput(model).attribute(x, y)
    theirs = quantus.metric(
        "RandomLogit", model, x, y, a,
        num_classes=2, functions={"similarity_func": "correlation_spearman"},
        call={"explain_func": explain},
    )  # fmt: skip
    assert np.allclose(RandomLogit().evaluate(GradientXInput(model), x, y), theirs)


def test_bad_input(case):
    model, x, y = case
    with pytest.raises(InvalidInputError, match="needs class targets and a model with several outputs"):
        RandomLogit().evaluate(Gradient(model), x, lambda out: out[:, 0])
    with pytest.raises(InvalidInputError, match="at least 7 x 7"):
        RandomLogit(similarity="ssim").evaluate(Gradient(nn.Linear(4, 2)), torch.rand(2, 4), 0)
    with pytest.raises(InvalidInputError, match="must be one of 'spearman'"):
        ModelRandomisation(similarity="kendall")

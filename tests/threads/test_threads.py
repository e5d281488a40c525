"""Each of two threads on one model gets what it gets alone, and the model is as it was."""

from __future__ import annotations

import pytest
import torch

from tests.threads.models import Closed, Deployed, Stateful, make
from tests.threads.tries import wrong_results
from tests.threads.works import IMAGES, INPUTS, LABELS, WORKS
from xaikit import Gradient
from xaikit.metrics import ModelRandomisation


@pytest.mark.parametrize("kind", [Stateful, Deployed, Closed])
def test_ten_tries_of_two_threads(kind):
    assert not list(wrong_results(10, kinds=(kind,)))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 103))
def test_six_hundred_tries_of_two_threads(seed):
    assert not list(wrong_results(200, seed=seed))


def test_a_work_that_disturbs_another_is_found(monkeypatch):
    """A gradient that is computed on the user's own model, with weights that another thread changes."""

    def disturbing(model, x, y):
        weight = model.conv.weight
        with torch.no_grad():
            for _ in range(200):
                weight.mul_(2)
                weight.div_(2)
        return [weight.detach().clone()]

    monkeypatch.setitem(WORKS, Stateful, {"gradient": WORKS[Stateful]["gradient"], "disturbing": disturbing})
    assert list(wrong_results(30, kinds=(Stateful,)))


@pytest.mark.parametrize("kind", [Deployed, Closed])
def test_model_randomisation_leaves_the_weights_alone_meanwhile(kind):
    """Whoever looks while a model is randomised sees its own weights, unless it cannot be copied."""
    model, seen = make(kind), []
    weights = [p.detach().clone() for p in model.parameters()]

    class Looking(Gradient):
        def _attribute(self, call):
            seen.append(all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True)))
            return super()._attribute(call)

    values = ModelRandomisation().evaluate(Looking(model), IMAGES, LABELS)
    assert values.isfinite().all()
    assert all(seen) is (kind is Deployed)
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_the_parameters_of_a_model_that_runs_itself_stay_free():
    """Another thread may differentiate by them at this moment."""

    class Asking(Closed):
        def forward(self, x):
            asked.append(all(p.requires_grad for p in self.parameters()))
            return super().forward(x)

    asked: list[bool] = []
    model = make(Asking)
    Gradient(model).attribute(INPUTS[Closed], LABELS)
    assert asked
    assert all(asked)

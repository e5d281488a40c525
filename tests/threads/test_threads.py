"""Each of two threads on one model gets what it gets alone, and the model is as it was."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.threads.models import Closed, Deployed, Stateful, make
from tests.threads.tries import wrong_results
from tests.threads.works import IMAGES, INPUTS, LABELS, WORKS
from xaikit import EXPLAINERS, RRR, Gradient
from xaikit.core.model_state import EXCLUSIVE
from xaikit.core.replica import Replica
from xaikit.metrics import ModelRandomisation


@pytest.mark.parametrize("kind", [Stateful, Deployed, Closed])
def test_ten_tries_of_two_threads(kind):
    assert not list(wrong_results(10, kinds=(kind,)))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(100, 102))
def test_four_hundred_tries_of_two_threads(seed):
    assert not list(wrong_results(200, seed=seed))


def test_a_work_that_disturbs_another_is_found(monkeypatch):
    """A gradient that is computed while another thread has doubled a weight of the user's own model."""
    gradient = WORKS[Stateful]["gradient"]

    def disturbing(model, x, y):
        with torch.no_grad():
            model.conv.weight.mul_(2)
            time.sleep(0.2)
            model.conv.weight.div_(2)
        return [model.conv.weight.detach().clone()]

    def meanwhile(model, x, y):
        time.sleep(0.02)
        return gradient(model, x, y)

    monkeypatch.setitem(WORKS, Stateful, {"gradient": meanwhile, "disturbing": disturbing})
    assert any(wrong_results(30, kinds=(Stateful,)))


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


@pytest.mark.parametrize("spec", ["kernel_shap:n_samples=30", "lime:n_samples=30", "shapley_value_sampling"])
def test_captum_draws_what_it_draws_alone_while_another_thread_draws(spec):
    """The user's own pass takes no lock, and its dropout draws from torch's global generator."""
    explainer = EXPLAINERS.create(f"captum.{spec}").bind(make(Deployed))
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    alone = explainer.attribute(x, 0, seed=5)

    def meanwhile(_module, _inputs) -> None:
        torch.empty(3).uniform_()  # as if by a thread that came between

    handle = explainer.model.conv.register_forward_pre_hook(meanwhile)
    try:
        assert torch.equal(explainer.attribute(x, 0, seed=5), alone)
    finally:
        handle.remove()


def test_what_a_loss_hands_to_the_model_does_not_come_between_a_pass_of_the_model(monkeypatch):
    """A pass of the model itself holds the lock; it must not read an attribute that another pass has assigned."""
    free, plain = [], Replica.write_back

    def watched(replica: Replica) -> None:
        with ThreadPoolExecutor(1) as other:
            free.append(other.submit(EXCLUSIVE.acquire, blocking=False).result())
        plain(replica)

    monkeypatch.setattr(Replica, "write_back", watched)
    RRR(mode="train").loss(make(Deployed), (IMAGES, LABELS, torch.ones(4, 4)))
    assert free == [False]

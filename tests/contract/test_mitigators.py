"""Every registered mitigator keeps every promise, with every explainer that can be differentiated."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS, MITIGATORS
from xaikit.core.errors import InvalidInputError, NotDifferentiableError, UnknownNameError
from xaikit.explainers import Gradient
from xaikit.mitigation import Concept
from xaikit.mitigation.changed import ChangedMitigator
from xaikit.testing import ContractNet

DIFFERENTIABLE = [name for name in EXPLAINERS if EXPLAINERS.get(name).DIFFERENTIABLE]
EXPLAINED = [name for name in MITIGATORS if not issubclass(MITIGATORS.get(name), ChangedMitigator)]


class Normed(ContractNet):
    """With BatchNorm, so that modes differ in more than dropout."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, image):
        return self.norm(super().forward(image))


def make(name, **settings):
    cls = MITIGATORS.get(name)
    if "concept" in cls.SETTINGS:
        direction = F.normalize(torch.tensor([1.0, -2.0, 0.5, 1.0], dtype=torch.float64), dim=0)
        settings["concept"] = Concept("second", direction, torch.zeros(4).double(), torch.ones(4).double())
    return cls(**settings)


def case(net=ContractNet):
    torch.manual_seed(0)
    model, x = net().double(), torch.randn(4, 2, 6, 6).double()
    return model, x, torch.tensor([0, 2, 1, 1]), torch.rand(4, 6, 6).double()


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_weight_zero_is_the_plain_step_bit_for_bit(name):
    model, x, y, mask = case(Normed)
    torch.manual_seed(5)
    F.cross_entropy(model(x), y).backward()
    plain = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    after = torch.rand(3)
    for how in ({}, {"weight": 0.0}):
        zero = make(name) if how else make(name, **{MITIGATORS.get(name).WEIGHT: 0.0})
        model.zero_grad()
        torch.manual_seed(5)
        loss = zero.loss(model, (x, y, mask), **how)
        loss.total.backward()
        assert torch.isfinite(loss.penalty)
        assert torch.equal(loss.total, loss.task)
        assert torch.equal(after, torch.rand(3))  # nothing else has drawn from the random state
        for a, b in zip((p.grad for p in model.parameters() if p.grad is not None), plain, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_the_measured_penalty_leaves_no_trace(name):
    model, x, y, mask = case(Normed)
    loss = make(name, **{MITIGATORS.get(name).WEIGHT: 0.0}).loss(model, (x, y, mask))
    assert int(model.norm.num_batches_tracked) == 1
    assert not loss.penalty.requires_grad


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_total_is_task_and_weighed_penalty(name):
    model, x, y, mask = case()
    model.eval()
    loss = make(name).loss(model, (x, y, mask), seed=3, weight=2.5)
    assert torch.allclose(loss.total, loss.task + 2.5 * loss.penalty)
    assert torch.allclose(loss.task, F.cross_entropy(model(x), y))
    assert torch.equal(loss.penalty, make(name).loss(model, (x, y, mask), seed=3).penalty)


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_the_penalty_is_differentiated_exactly(name):
    for explainer in DIFFERENTIABLE if name in EXPLAINED else ["gradient"]:
        torch.manual_seed(1)
        model, x, y, mask = case()
        model.eval()
        mitigator = make(name, explainer=explainer)
        parameters = list(model.parameters())

        def penalty(mitigator=mitigator, model=model, batch=(x, y, mask)):
            return mitigator.loss(model, batch, seed=0).penalty

        grads = torch.autograd.grad(penalty(), parameters, allow_unused=True)
        direction = [torch.randn_like(p) for p in parameters]
        exact = sum(float((g * d).sum()) for g, d in zip(grads, direction, strict=True) if g is not None)
        ends, step = [], 1e-7  # small, since a ReLU or a hinge that changes sides on the way spoils the difference
        for sign in (1, -1):
            for p, d in zip(parameters, direction, strict=True):
                p.data.add_(d, alpha=sign * step)
            ends.append(float(penalty().detach()))
            for p, d in zip(parameters, direction, strict=True):
                p.data.add_(d, alpha=-sign * step)
        found = (ends[0] - ends[1]) / (2 * step)
        size = max((float(g.norm()) for g in grads if g is not None), default=0.0)
        assert abs(exact - found) < 1e-5 * max(abs(found), 1e-3 * size) + 1e-9, explainer


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_refusals(name):
    class Detached(Gradient):
        """No graph."""

        DIFFERENTIABLE = False

    with pytest.raises(NotDifferentiableError, match="these can: .*gradient"):
        make(name, explainer=Detached())
    model, x, y, mask = case()
    with pytest.raises(InvalidInputError, match="labels must lie in 0..2 .* got 5"):
        make(name).loss(model, (x, y + 5, mask))
    with pytest.raises(InvalidInputError, match=r"labels must have shape \(4,\), got \(3,\)"):
        make(name).loss(model, (x, y[:3], mask))

    class Several(ContractNet):
        def forward(self, image):
            logits = super().forward(image)
            return {"shape": logits, "colour": -logits}

    with pytest.raises(UnknownNameError, match=r"name its output with head=, one of \['shape', 'colour'\]"):
        make(name).loss(Several().double(), (x, y, mask))
    assert make(name, head="shape").loss(Several().double(), (x, y, mask)).total.requires_grad


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_a_batch_of_one_under_batchnorm_is_told(name):
    model, x, y, mask = case(Normed)
    with pytest.raises(InvalidInputError, match="BatchNorm in training mode cannot take a batch of one"):
        make(name).loss(model, (x[:1], y[:1], mask[:1]))
    model.eval()
    assert torch.isfinite(make(name).loss(model, (x[:1], y[:1], mask[:1])).total)


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_the_spec_goes_through_json(name):
    mitigator = make(name)
    if "concept" in mitigator.SETTINGS:
        with pytest.raises(InvalidInputError, match=f"{name}.concept is a Concept, which a spec cannot hold"):
            mitigator.spec()
        return
    assert MITIGATORS.create(json.loads(json.dumps(mitigator.spec()))) == mitigator


def test_every_mitigator_is_public():
    import xaikit

    for name in MITIGATORS:
        cls = MITIGATORS.get(name)
        if cls.__module__.startswith("xaikit."):
            assert getattr(xaikit, cls.__name__) is cls

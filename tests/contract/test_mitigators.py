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
from xaikit.testing import MITIGATOR_CHECKS, ContractNet, check_penalty_derivative

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


@pytest.mark.parametrize("check", MITIGATOR_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", list(MITIGATORS))
def test_mitigator(name, check):
    check(make(name))


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_every_explanation_is_differentiated_exactly(name):
    for explainer in DIFFERENTIABLE if name in EXPLAINED else ["gradient"]:
        check_penalty_derivative(make(name, explainer=explainer))


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_the_measured_penalty_leaves_no_trace(name):
    model, x, y, mask = case(Normed)
    loss = make(name, **{MITIGATORS.get(name).WEIGHT: 0.0}).loss(model, (x, y, mask))
    assert int(model.norm.num_batches_tracked) == 1
    assert not loss.penalty.requires_grad


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

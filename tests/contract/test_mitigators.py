"""Every registered mitigator keeps every promise, with every explainer that can be differentiated."""

from __future__ import annotations

import json
import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS, MITIGATORS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NotDifferentiableError, UnknownNameError
from xaikit.explainers import Gradient
from xaikit.mitigation import Concept
from xaikit.testing import MITIGATOR_CHECKS, ContractNet, check_penalty_derivative

DIFFERENTIABLE = [name for name in EXPLAINERS if EXPLAINERS.get(name).DIFFERENTIABLE]
EXPLAINED = [name for name in MITIGATORS if MITIGATORS.get(name).USES_EXPLAINER]


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


# `make test` runs one with an explanation, and those without.
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.nightly] * (n in EXPLAINED and n != "rrr")) for n in MITIGATORS]
)
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
    with pytest.raises(InvalidInputError, match=r"labels must have shape \(4,\), one for each sample, got \(3,\)"):
        make(name).loss(model, (x, y[:3], mask))

    class Several(ContractNet):
        def forward(self, image):
            logits = super().forward(image)
            return {"shape": logits, "colour": -logits}

    with pytest.raises(UnknownNameError, match=r"name its output with head=, one of \['shape', 'colour'\]"):
        make(name).loss(Several().double(), (x, y, mask))
    assert make(name, head="shape").loss(Several().double(), (x, y, mask)).total.requires_grad


def fit(mitigator, model, x, y, mask, form):
    """Fit from tensors, or from batches of two samples with their masks."""
    settings = {"n_epochs": 1, "batch_size": 2, "random_state": 0}
    each = mask.expand(len(x), *mask.shape[-2:])
    given = [(x[i : i + 2], y[i : i + 2], each[i : i + 2]) for i in range(0, len(x), 2)]
    mitigator.set_kwargs(**settings).fit(model, *((x, y, mask) if form == "tensors" else (given,)), progress=False)


@pytest.mark.parametrize("form", ["tensors", "batches"])
@pytest.mark.parametrize("name", list(MITIGATORS))
def test_masks_that_cannot_be_meant_are_told(name, form):
    model, x, y, mask = case()
    cls = MITIGATORS.get(name)
    for given, words in ((mask * 0, cls.EMPTY_MASK_WARNING), (mask * 0 + 1, make(name)._full_mask_warning())):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(make(name), model, x, y, given, form)
        said = [str(w.message) for w in caught if str(w.message) != cls.MASK_WARNING]
        assert (len(said), words is not None) in ((0, False), (1, True))
        assert words is None or said[0].startswith("the mask ") and said[0].endswith(f"so {words}")
    # Some samples without a mask are no mistake, nor is a batch of them.
    some = mask.clone()
    some[:2] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if cls.MASK_WARNING:
            warnings.filterwarnings("ignore", message=re.escape(cls.MASK_WARNING))
        fit(make(name), model, x, y, some, form)


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_masks_for_another_number_of_samples(name):
    model, x, y, mask = case()
    with pytest.raises(InvalidInputError, match=r"(masks|relevant_region) must have shape .*N = 4; got \(3, 6, 6\)"):
        make(name).fit(model, x, y, mask[:3], progress=False)
    with pytest.raises(InvalidInputError, match=r"(masks|relevant_region) must have shape .*N = 4; got \(3, 6, 6\)"):
        make(name).loss(model, (x, y, mask[:3]))


@pytest.mark.parametrize("name", list(MITIGATORS))
def test_a_batch_that_holds_nothing_to_train_on(name):
    model, x, y, mask = case()
    with pytest.raises(InvalidInputError, match="a batch must hold at least one sample"):
        make(name).loss(model, (x[:0], y[:0], mask[:0]))
    if MITIGATORS.get(name).NEEDS_MASK:
        with pytest.raises(InvalidTypeError, match="must be told where: a batch is .* got None for the masks"):
            make(name).loss(model, (x, y, None))
    else:
        assert torch.isfinite(make(name).loss(model, (x, y, None)).total)
    model.requires_grad_(False)
    with pytest.raises(InvalidInputError, match="nothing to train"):
        make(name).fit(model, x, y, mask, progress=False)


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
    assert MITIGATORS.create(json.loads(json.dumps(mitigator.spec()))) == mitigator


def test_every_mitigator_is_public():
    from xaikit import mitigation

    for name in MITIGATORS:
        cls = MITIGATORS.get(name)
        if cls.__module__.startswith("xaikit."):
            assert getattr(mitigation, cls.__name__) is cls

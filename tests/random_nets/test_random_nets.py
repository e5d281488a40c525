"""Random nets: that the generator is one, and that no explainer violates a check on them."""

from __future__ import annotations

import pytest
import torch

from tests.random_nets.checks import check
from tests.random_nets.kinds import KINDS
from tests.random_nets.nets import build
from xaikit import Gradient


def test_a_seed_always_gives_the_same_net():
    before = torch.get_rng_state()
    first, second = build(5), build(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(first) == str(second)
    for a, b in zip(first.net.state_dict().values(), second.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.nightly
def test_the_nets_are_made_of_many_kinds():
    names = " ".join(", ".join(build(seed).kinds) for seed in range(60))
    assert sum(name in names for name in KINDS) > 150


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_ten_random_nets(seed):
    outcome = check(seed)
    assert not outcome.violations, f"{outcome.case}: {outcome.violations}"


@pytest.mark.nightly
@pytest.mark.parametrize("start", range(10, 100, 10))
def test_ninety_random_nets(start):
    outcomes = [check(seed) for seed in range(start, start + 10)]
    assert not {o.case.seed: o.violations for o in outcomes if o.violations}


def test_a_wrong_gradient_is_found(monkeypatch):
    true = Gradient._attribute
    monkeypatch.setattr(Gradient, "_attribute", lambda self, call: tuple(2 * g for g in true(self, call)))
    assert any(check(seed).violations for seed in range(3))

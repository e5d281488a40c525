"""Random nets: that the generator is one, and that no explainer violates a check on them."""

from __future__ import annotations

import pytest
import torch

from tests.random_nets.kinds import KINDS
from tests.random_nets.nets import build


def test_a_seed_always_gives_the_same_net():
    before = torch.get_rng_state()
    first, second = build(5), build(5)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(first) == str(second)
    for a, b in zip(first.net.state_dict().values(), second.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
def test_the_nets_are_made_of_many_kinds():
    names = " ".join(", ".join(build(seed).kinds) for seed in range(150))
    assert sum(name in names for name in KINDS) > 150

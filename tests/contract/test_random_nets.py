"""Random nets of 60 kinds of layers and functions; any number of them by ``python -m tests.random_nets``."""

from __future__ import annotations

import warnings

import pytest

from tests.random_nets import FUNCTIONS, SMOOTH, _layers_of, violations


@pytest.mark.zoo
@pytest.mark.parametrize("first", range(0, 100, 10))
def test_random_nets(first):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrong = {seed: found for seed in range(first, first + 10) if (found := list(violations(seed)))}
    assert not wrong


def test_there_are_sixty_kinds():
    kinds = {*SMOOTH, *FUNCTIONS, *(name for axes in (1, 2, 3, 4) for name in _layers_of(axes, 4))}
    assert len(kinds) >= 60


def test_a_wrong_gradient_is_found(monkeypatch):
    from xaikit import Gradient

    true = Gradient._attribute
    monkeypatch.setattr(Gradient, "_attribute", lambda self, call: tuple(2 * g for g in true(self, call)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert any("finite differences" in line for line in violations(0))

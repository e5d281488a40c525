"""Changed copies of weights share memory from layer to layer in a backward pass, which must not show."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from xaikit.explainers import LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus
from xaikit.explainers.lrp import flow, formulas


def net():
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 3, 3), nn.Tanh(), nn.Conv2d(3, 9, 1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(9 * 4, 20), nn.Tanh(), nn.Linear(20, 4)).eval()


@pytest.mark.parametrize("explainer", [LRPEpsilonPlus, LRPEpsilonGammaBox, LRPEpsilonAlpha2Beta1])
@pytest.mark.parametrize("target", [1, [0, 2]])
def test_shared_memory_changes_no_value(explainer, target, monkeypatch):
    model, x, rooms = net(), torch.randn(3, 2, 6, 6), []

    def found():
        made = explainer(model)
        many = isinstance(target, list)
        return torch.stack([made.attribute(x, t) for t in target]) if many else made.attribute(x, target)

    def noted(like, use):
        rooms.append(flow.room_for(like, use))
        return rooms[-1]

    monkeypatch.setattr(formulas, "room_for", noted)
    shared = found()
    assert any(room is not None for room in rooms)
    monkeypatch.setattr(formulas, "room_for", lambda like, use: None)
    assert torch.equal(shared, found())
    assert flow.ROOMS.by_use is None  # nothing is kept after a pass


def test_a_modifier_of_the_users_own_is_asked_whatever_its_variables_are_called():
    min, max = 2.0, 3.0  # noqa: A001

    def modifier(tensor, _name):
        return tensor * min + max

    hook = SimpleNamespace(param_modifiers=[modifier])
    assert torch.equal(formulas.parameter(hook, 0, torch.ones(2), "weight"), torch.full((2,), 5.0))

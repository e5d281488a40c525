"""The copy of a model that is trained in its place, of models that deepcopy does not take as they are."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.core.model_copy import trainable_copy
from xaikit.mitigation import mend


class Keeps(nn.Module):
    """Keeps activations with their graph, as many models do that are looked into."""

    def __init__(self):
        super().__init__()
        self.net, self.kept = nn.Linear(4, 2), {"all": []}
        self.net.weight.requires_grad_(False)

    def forward(self, x):
        self.last = self.net(x)
        self.kept["all"] = [self.last]
        return self.last


def scripted():
    return torch.jit.script(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))


def normed():
    with pytest.warns(FutureWarning):
        return nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 2)))


@pytest.mark.parametrize("make", [Keeps, scripted, normed])
def test_the_copy_trains_and_the_model_stays(make):
    model, x = make(), torch.randn(5, 4)
    before = copy.deepcopy(model.state_dict())
    expected = model(x).detach()
    copied = trainable_copy(model)
    torch.testing.assert_close(copied(x), expected, rtol=0, atol=0)
    assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in model.parameters()]
    optimizer = torch.optim.SGD([p for p in copied.parameters() if p.requires_grad], lr=1.0)
    copied(x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(copied(x), expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_script_module_is_mended():
    x, y = torch.randn(80, 4, generator=torch.Generator().manual_seed(0)), torch.arange(80) % 2
    x[:, 0], x[:, 1] = 6.0 * y - 3, x[:, 1] + 2.0 * y - 1
    result = mend(
        scripted(),
        (x, y),
        torch.tensor([1.0, 0, 0, 0]),
        n_epochs=2,
        budget=1,
        progress=False,
        methods="counterexamples",
    )
    assert len(result.tries) == 2
    assert result.tries[1].epochs > 0


def test_what_cannot_be_copied_is_said():
    model = nn.Linear(4, 2)
    model.lock = threading.Lock()
    with pytest.raises(InvalidInputError, match="Linear cannot be copied .*lock"):
        trainable_copy(model)

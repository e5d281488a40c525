"""A loss that is not finite, in a training loop of the user's own."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from xaikit import RRR
from xaikit.mitigation import GroupDRO, loss_watch


class Rooted(nn.Module):
    """Its derivative at 0 is infinite."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(3, 2)

    def forward(self, x):
        return self.last(x.sqrt())


X, Y, MASK = torch.tensor([[1.0, 2, 3], [0, 1, 1]]), torch.tensor([0, 1]), torch.ones(3)


def test_it_is_told_once_at_the_line_of_the_user():
    net = Rooted()
    with pytest.warns(UserWarning, match=r"RRR.loss is (nan|inf): the task loss is 0\.\d+, but the penalty is") as told:
        loss = RRR().loss(net, (X, Y, MASK))
    assert told[0].filename == __file__
    assert not loss.total.isfinite()
    RRR().loss(net, (X, Y, MASK))  # a further warning would be an error


@pytest.mark.parametrize("mitigator", [RRR(), GroupDRO()])
def test_a_model_that_is_not_finite_itself(mitigator):
    net = Rooted()
    with torch.no_grad():
        net.last.weight[0, 0] = torch.nan
    with pytest.warns(UserWarning, match=r"loss is nan: the task loss is nan; look at the model's weights"):
        mitigator.loss(net, (X + 1, Y, MASK))


def test_a_weight_that_overflows():
    with pytest.warns(UserWarning, match=r"overflow together; lower lambda_rrr"):
        RRR().loss(Rooted(), (X + 1, Y, MASK), weight=1e38 * 1e2)


def test_at_weight_0_the_loss_is_finite_and_fit_tells_by_itself():
    RRR().loss(Rooted(), (X, Y, MASK), weight=0)
    with pytest.warns(UserWarning, match="not finite") as told:
        RRR(n_epochs=1, max_skips=5, batch_size=2).fit(Rooted(), X, Y, torch.tensor([1.0, 0, 0]), progress=False)
    assert not any("RRR.loss" in str(w.message) for w in told)


def test_on_a_gpu_the_next_loss_tells(monkeypatch):
    # Without a GPU: what is not on the CPU is asked for by this name.
    net, memory = Rooted(), loss_watch._Memory()
    memory.last = torch.tensor(0.5), torch.tensor(torch.inf), torch.tensor(torch.inf)
    monkeypatch.setitem(loss_watch._MEMORIES, net, memory)
    with pytest.warns(UserWarning, match=r"RRR.loss is inf: the task loss is 0.5, but the penalty is inf") as told:
        RRR().loss(net, (X + 1, Y, MASK))
    assert told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RRR().loss(net, (X, Y, MASK))

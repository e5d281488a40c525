"""Calls whose first argument is a constant and another one the decomposed value."""

import pytest
import torch
from torch import nn

from xaikit.explainers import ContextualDecomposition

RAMP = torch.linspace(0.1, 1, 6, dtype=torch.float64)
CALLS = {
    "view_as": lambda x: x + RAMP.view_as(x[0]),
    "reshape_as": lambda x: x + RAMP.view(2, 3).reshape_as(x[0]),
    "expand_as": lambda x: x * RAMP[None].expand_as(x),
    "clamp": lambda x: torch.clamp(RAMP, min=x),
    "clamp of both": lambda x: torch.clamp(x, min=x / 2, max=RAMP),
    "pow": lambda x: torch.pow(RAMP + 1, x / 10),
    "rsub": lambda x: torch.rsub(x, RAMP),
    "index_put": lambda x: torch.zeros(len(x), 6, dtype=x.dtype).index_put((torch.arange(len(x)),), x),
    "scatter_add": lambda x: RAMP.expand(len(x), 6).scatter_add(1, torch.arange(6).flip(0).expand(len(x), 6), x),
    "lerp": lambda x: torch.lerp(RAMP, x, 0.3),
    "addmm": lambda x: torch.addmm(RAMP, x, RAMP.expand(6, 6)),
    "add_": lambda x: RAMP.expand(len(x), 6).clone().add_(x),
}


class Net(nn.Module):
    def __init__(self, call):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.call = nn.Linear(6, 6), nn.Linear(6, 2), call
        self.double()

    def forward(self, x):
        return self.head(self.call(self.first(x)))


@pytest.mark.parametrize("name", CALLS)
def test_the_contributions_sum_to_the_score(name):
    net, x = Net(CALLS[name]), torch.randn(3, 6, dtype=torch.float64)
    result = ContextualDecomposition(net).explain(x, 1)
    torch.testing.assert_close(result.scores, net(x)[:, 1].detach())
    assert float(result.gap.max()) < 1e-9
    assert float(result.values.abs().min()) > 0


def test_a_call_without_a_rule_for_it_is_refused():
    with pytest.raises(RuntimeError, match="no rule for `xlogy`"):
        ContextualDecomposition(Net(lambda x: torch.xlogy(RAMP, x * x + 1))).attribute(torch.randn(3, 6).double(), 1)

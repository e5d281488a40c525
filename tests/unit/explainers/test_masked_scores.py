"""Scores of attention that a model closes with minus infinity, however it is written: finite and complete."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import pad

from xaikit import EXPLAINERS
from xaikit.testing import derivative_error

CLOSED = -math.inf
LOWEST = torch.finfo(torch.float64).min
LATER = torch.ones(3, 3, dtype=torch.bool).triu(1)
POSITION_BIAS = torch.arange(9.0).view(3, 3).double() / 9


def following(a):
    return torch.tensor([1, 2, 0]).view(1, 3, 1).expand(len(a), 3, 1)


def column(a):
    return a.new_full((len(a), 3, 1), CLOSED)


def written(write):
    """The scores after something was written into a copy of them."""

    def change(a):
        copy = a.clone()
        write(copy)
        return copy

    return change


WAYS = {
    "masked_fill": lambda a: a.masked_fill(LATER, CLOSED),
    "where": lambda a: torch.where(LATER, CLOSED, a),
    "where with a full tensor": lambda a: torch.full_like(a, CLOSED).where(LATER, a),
    "plus a mask": lambda a: a + torch.zeros_like(a).masked_fill(LATER, CLOSED),
    "plus the log of a mask": lambda a: a + (~LATER).double().log(),
    "closed twice": lambda a: a.masked_fill(LATER, CLOSED) + torch.zeros_like(a).masked_fill(LATER, LOWEST),
    "plus positions": lambda a: a.masked_fill(LATER, CLOSED) + POSITION_BIAS,
    "plus positions in place": lambda a: a.masked_fill(LATER, CLOSED).add_(POSITION_BIAS),
    "plus a number": lambda a: a.masked_fill(LATER, CLOSED) + 1.5,
    "less the largest": lambda a: (b := a.masked_fill(LATER, CLOSED)) - b.amax(-1, keepdim=True),
    "less their smooth maximum": lambda a: (b := a.masked_fill(LATER, CLOSED)) - b.logsumexp(-1, keepdim=True),
    "scatter": lambda a: a.scatter(-1, following(a), CLOSED),
    "scatter of a tensor": lambda a: a.scatter(-1, following(a), column(a)),
    "scatter of the two largest": lambda a: torch.full_like(a, CLOSED).scatter(-1, a.topk(2).indices, a.topk(2).values),
    "index_fill": lambda a: a.index_fill(2, torch.tensor([1]), CLOSED),
    "index_copy": lambda a: a.index_copy(2, torch.tensor([1]), column(a)),
    "assigned": written(lambda b: b.__setitem__((..., 1), CLOSED)),
    "assigned by a mask": written(lambda b: b.__setitem__((slice(None), LATER), CLOSED)),
    "filled through a view": written(lambda b: b[..., 1].fill_(CLOSED)),
    "fill_diagonal": lambda a: torch.stack([row.clone().fill_diagonal_(CLOSED) for row in a]),
    "pad": lambda a: pad(a[..., :2], (0, 1), value=CLOSED),
    "cat": lambda a: torch.cat([a[..., :2], column(a)], -1),
    "clamp": lambda a: a.masked_fill(LATER, CLOSED).clamp(min=-1e4),
    "nan_to_num": lambda a: a.masked_fill(LATER, CLOSED).nan_to_num(),
}


class Attention(nn.Module):
    def __init__(self, close):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value, self.out = (nn.Linear(4, 4) for _ in range(4))
        self.close = close

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        return self.out((self.close(scores).softmax(-1) @ self.value(x)).mean(1))


@pytest.mark.parametrize("name", ["contextual_decomposition", "attn_lrp"])
@pytest.mark.parametrize("way", WAYS)
def test_closed_scores(way, name):
    explainer = EXPLAINERS.create(name).bind(Attention(WAYS[way]).double())
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    explained = explainer.explain(x, [1, 0])
    assert explained.values.isfinite().all()
    if name == "contextual_decomposition":
        assert explained.gap.abs().max() < 1e-12
    torch.testing.assert_close(explainer.attribute(x, [1, 0], create_graph=True).detach(), explained.values)
    if name == "contextual_decomposition":
        assert derivative_error(explainer, x, [1, 0]) < 1e-5

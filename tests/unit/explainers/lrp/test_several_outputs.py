"""LRP of a target that looks at all that a model returns: `Heads`, and functions with `head=None`."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from xaikit import Heads
from xaikit.core import EXPLAINERS

NAMES = ["lrp_epsilon_plus", "lrp_uniform_epsilon", "attn_lrp", "lrp_epsilon_alpha2_beta1"]


@dataclasses.dataclass
class Spans:
    start: torch.Tensor
    end: torch.Tensor


FORMS = {
    "dict": (lambda a, b: {"start": a, "end": b}, ("start", "end")),
    "tuple": (lambda a, b: (a, b), (0, 1)),
    "dataclass": (Spans, ("start", "end")),
    "namespace": (lambda a, b: SimpleNamespace(start=a, end=b), ("start", "end")),
}


class TwoHeads(nn.Module):
    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.form = nn.Linear(4, 6, bias=False), form
        self.a, self.b = nn.Linear(6, 3, bias=False), nn.Linear(6, 3, bias=False)
        self.double()

    def forward(self, x):
        h = self.body(x).relu()
        return self.form(self.a(h), self.b(h))


X = torch.rand(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NAMES)
def test_as_the_sum_of_the_heads(name, form):
    make, (first, second) = FORMS[form]
    model = TwoHeads(make).eval()
    lrp = EXPLAINERS.create(name).bind(model)
    values = lrp.attribute(X, Heads({first: 1, second: 2}))
    alone = [lrp.set_kwargs(head=head).attribute(X, index) for head, index in ((first, 1), (second, 2))]
    assert torch.allclose(values, alone[0] + alone[1], atol=1e-12)
    by_function = lrp.set_kwargs(head=None).attribute(X, lambda out: parts(out)[0][:, 1] + parts(out)[1][:, 2])
    assert torch.allclose(by_function, values, atol=1e-12)


def parts(output):
    """Both heads, in whichever form."""
    if isinstance(output, tuple):
        return output
    return tuple((output if isinstance(output, dict) else vars(output))[name] for name in ("start", "end"))


def test_relevance_is_the_score():
    model = TwoHeads(FORMS["dict"][0]).eval()
    result = EXPLAINERS.create("lrp_epsilon_plus").bind(model).explain(X, Heads({"start": 1, "end": 2}))
    h = model.body(X).relu()
    assert torch.allclose(result.scores, (model.a(h)[:, 1] + model.b(h)[:, 2]).detach())
    assert float(result.gap.max()) < 1e-4


def test_the_derivative_against_finite_differences():
    model = TwoHeads(FORMS["dict"][0]).eval()
    lrp, target = EXPLAINERS.create("lrp_uniform_epsilon").bind(model), Heads({"start": 1, "end": 2})
    weights = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    (lrp.attribute(X, target, create_graph=True) * weights).sum().backward()
    step = 1e-6
    for place in ((0, 0), (3, 2)):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                model.body.weight[place] += sign * step
                values.append(float((lrp.attribute(X, target) * weights).sum()))
                model.body.weight[place] -= sign * step
        assert abs((values[0] - values[1]) / (2 * step) - float(model.body.weight.grad[place])) < 1e-6

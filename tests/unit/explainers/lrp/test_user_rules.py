"""Rules of the user's own for torch functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers.lrp import LRPUniformEpsilon, lrp_rule
from xaikit.explainers.lrp.registry import USER_RULES
from xaikit.testing import directional_derivative_error


@pytest.fixture(autouse=True)
def no_rules_left():
    before = dict(USER_RULES)
    yield
    USER_RULES.clear()
    USER_RULES.update(before)


class Net(nn.Module):
    def __init__(self, step):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head, self.step = nn.Linear(4, 6), nn.Linear(6, 3), step
        self.double()

    def forward(self, x):
        return self.head(self.step(self.first(x)))


X = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "step",
    [
        F.gelu,
        lambda h: F.gelu(input=h),
        lambda h: F.gelu(h, approximate="tanh"),
        nn.GELU(),
        torch.ops.aten.gelu,
    ],
)
def test_a_rule_replaces_the_built_in_one_in_all_forms_of_the_call(step):
    calls = []

    @lrp_rule(F.gelu)
    def twice(relevance, output, x, approximate="none"):
        calls.append(approximate)
        assert relevance.shape == output.shape == x.shape
        torch.testing.assert_close(output, F.gelu(x, approximate=approximate))
        return 2 * relevance

    halved = LRPUniformEpsilon(Net(step)).attribute(X, 1)
    USER_RULES.clear()
    torch.testing.assert_close(halved, 2 * LRPUniformEpsilon(Net(step)).attribute(X, 1))
    assert len(calls) == 1


def test_the_rule_that_is_built_in_written_as_a_rule():
    built_in = LRPUniformEpsilon(Net(torch.exp)).attribute(X, 1)
    in_place = LRPUniformEpsilon(Net(lambda h: (h * 1).exp_())).attribute(X, 1)

    @lrp_rule(torch.exp)
    def passed(relevance, output, x):
        return relevance

    torch.testing.assert_close(LRPUniformEpsilon(Net(torch.exp)).attribute(X, 1), built_in)
    torch.testing.assert_close(LRPUniformEpsilon(Net(lambda h: (h * 1).exp_())).attribute(X, 1), in_place)


def test_several_operands():
    @lrp_rule(torch.atan2)
    def shared(relevance, output, y, x):
        size = y.abs() + x.abs()
        return relevance * y.abs() / size, relevance * x.abs() / size

    net = Net(lambda h: torch.atan2(h, h.flip(1)))
    for p in net.parameters():
        if p.ndim == 1:
            nn.init.zeros_(p)
    explained = LRPUniformEpsilon(net, epsilon=1e-10).explain(X, 1)
    assert (explained.gap < 1e-6 * explained.scores.abs().max()).all()
    assert directional_derivative_error(LRPUniformEpsilon(net, epsilon=1e-2), X, torch.tensor([0, 1, 2])) < 1e-5


@pytest.mark.parametrize(
    ("returned", "what"),
    [(lambda r: r[:, :2], r"\(3, 2\)"), (lambda r: (r, r), r"\(3, 6\), \(3, 6\)"), (lambda r: 1.0, "float")],
)
def test_another_shape_is_refused(returned, what):
    @lrp_rule(torch.tanh)
    def mistaken(relevance, output, x):
        return returned(relevance)

    with pytest.raises(InvalidInputError, match=rf"the rule 'mistaken' for tanh .* \(3, 6\), .*; it returned {what}"):
        LRPUniformEpsilon(Net(torch.tanh)).attribute(X, 1)


@pytest.mark.parametrize("thing", [nn.GELU, "gelu", 3])
def test_rules_are_for_functions(thing):
    with pytest.raises(InvalidTypeError, match="lrp_rule takes functions of torch"):
        lrp_rule(thing)


def test_operators_of_a_library():
    @torch.library.custom_op("xaikit_test::cube", mutates_args=())
    def cube(x: torch.Tensor) -> torch.Tensor:
        return x**3

    cube.register_autograd(
        lambda ctx, g: 3 * ctx.saved_tensors[0] ** 2 * g,
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
    )
    net = Net(torch.ops.xaikit_test.cube)
    with pytest.warns(UserWarning, match=r"no rule for: xaikit_test::cube \(in Net\)"):
        LRPUniformEpsilon(net).attribute(X, 1)

    @lrp_rule(torch.ops.xaikit_test.cube)
    def passed(relevance, output, x):
        return relevance

    truth = LRPUniformEpsilon(Net(lambda h: torch.pow(h, 3))).attribute(X, 1)
    torch.testing.assert_close(LRPUniformEpsilon(net).attribute(X, 1), truth)

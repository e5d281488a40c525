"""Arguments find their positions and names, whatever the form of the call."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from xaikit.torch_ops import base_of, by_name, computed, out_of_place, positional, writes

x, y, z = (torch.randn(2, 3, 3) for _ in range(3))


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "moved", "stays"),
    [
        (torch.mul, (x,), {"other": y}, (x, y), {}),
        (torch.matmul, (), {"other": y, "input": x}, (x, y), {}),
        (torch.Tensor.baddbmm, (x,), {"batch2": z, "batch1": y, "beta": 0.5}, (x, y, z), {"beta": 0.5}),
        (torch.addcmul, (x,), {"tensor1": y, "tensor2": z, "value": 2}, (x, y, z), {"value": 2}),
        (F.linear, (), {"weight": y, "input": x}, (x, y), {}),
        (F.gelu, (), {"input": x, "approximate": "tanh"}, (x,), {"approximate": "tanh"}),
        (torch.sum, (x,), {"dim": 1}, (x, 1), {}),
        (torch.sum, (), {"input": x, "axis": 1, "keepdims": True}, (x, 1, True), {}),
        (torch.clamp, (x,), {"max": 1.0}, (x,), {"max": 1.0}),
        (torch.pow, (x,), {"exponent": 2}, (x, 2), {}),
        (torch.ops.aten.mul.Tensor, (x,), {"other": y}, (x, y), {}),
        (torch.special.xlogy, (), {"input": x, "other": y}, (x, y), {}),
        (torch.Tensor.add_, (x,), {"other": y, "alpha": 2}, (x, y), {"alpha": 2}),
    ],
)
def test_keywords_move_to_their_positions(function, args, kwargs, moved, stays):
    found, rest = positional(function, args, kwargs)
    assert len(found) == len(moved)
    assert all(a is b for a, b in zip(found, moved, strict=True))
    assert rest == stays


def test_arguments_by_name_know_the_defaults_and_both_orders_of_batch_norm():
    mean, var, weight = torch.zeros(3), torch.ones(3), torch.full((3,), 2.0)
    for function, args in (
        (F.batch_norm, (x, mean, var, weight)),
        (torch.batch_norm, (x, weight, None, mean, var, False, 0.1, 1e-5, False)),
    ):
        a = by_name(function, args, {})
        assert a["input"] is x
        assert a["running_var"] is var
        assert a["weight"] is weight
        assert a["eps"] == 1e-5
    assert by_name(torch.nn.functional.scaled_dot_product_attention, (x, y), {"value": z})["is_causal"] is False


def test_what_torch_does_not_tell_stays_as_it_is():
    def strange(*args, **kwargs):
        return args, kwargs

    assert positional(strange, (x,), {"other": y}) == ((x,), {"other": y})


@pytest.mark.parametrize(
    ("function", "plain"),
    [
        (torch.Tensor.add_, torch.Tensor.add),
        (torch.Tensor.__iadd__, torch.Tensor.__add__),
        (torch.relu_, torch.Tensor.relu),
        (torch.ops.aten.relu_.default, torch.ops.aten.relu.default),
        (torch.Tensor.copy_, None),
        (torch.Tensor.add, None),
        (torch.Tensor.__getitem__, None),
    ],
)
def test_the_function_that_an_in_place_function_computes(function, plain):
    assert out_of_place(function) == plain


@pytest.mark.parametrize(("args", "kwargs"), [((x, True), {}), ((x,), {"inplace": True})])
def test_the_inplace_argument_is_taken_out(args, kwargs):
    function, args, kwargs, in_place = computed(F.relu, args, kwargs)
    assert in_place
    assert torch.equal(function(*args, **kwargs), x.relu())
    assert not computed(F.relu, (x,), {"inplace": False})[3]


def test_which_functions_write():
    assert all(map(writes, (torch.Tensor.add_, torch.Tensor.copy_, torch.Tensor.__setitem__, torch.Tensor.__imul__)))
    assert not any(map(writes, (torch.Tensor.add, torch.Tensor.requires_grad_, torch.Tensor.__invert__)))
    assert base_of(x[0].T) is x
    assert base_of(x) is x

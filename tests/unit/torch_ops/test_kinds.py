"""The table of torch's operations: complete against torch itself, one kind for each."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from xaikit.torch_ops import KINDS, WHY_NONE, WRITTEN_OUT, Kind, canonical, coverage, kind_of, operation_name, why_none
from xaikit.torch_ops.listing import public_operations

# Named tensors: the oldest torch that xaikit supports still has them.
OF_OLD_TORCH = {"_update_names", "align_as", "align_to", "has_names", "refine_names", "rename"}
OF_NEW_TORCH = {"linalg_matrix_sqrth", "linalg_polar"}  # since 2.14


def test_nearly_every_operation_of_floats_has_a_kind():
    share, without = coverage()
    assert share >= (0.94 if set(without) & OF_OLD_TORCH else 0.95), without
    listed = {n for n, why in WHY_NONE.items() if why.startswith("no method")}
    listed -= OF_NEW_TORCH - set(public_operations())
    assert set(without) - OF_OLD_TORCH == listed, "the rest is listed"


def test_every_operation_of_torch_is_in_the_table():
    names = public_operations()
    assert len(names) > 700
    assert [n for n in names if n not in KINDS and why_none(n) is None and n not in OF_OLD_TORCH] == []


def test_no_operation_has_a_kind_and_a_reason_to_have_none():
    assert set(KINDS) & set(WHY_NONE) == set()
    assert [n for n in (*KINDS, *WHY_NONE) if canonical(n) != n] == []


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.Tensor.add_, "add"),
        (torch.Tensor.__iadd__, "add"),
        (torch.Tensor.__radd__, "add"),
        (torch.Tensor.__rsub__, "rsub"),
        (torch.Tensor.__rmatmul__, "rmatmul"),
        (torch.Tensor.__getitem__, "__getitem__"),
        (torch.Tensor.__invert__, "invert"),
        (torch.ops.aten.add.Tensor, "add"),
        (torch.ops.aten.relu_.default, "relu"),
        (torch.ops.aten._softmax.default, "softmax"),
        (torch.special.expit, "sigmoid"),
        (torch.linalg.norm, "norm"),
        (torch.fft.rfft, "fft_rfft"),
        (torch.absolute, "abs"),
        (torch.view_copy, "view"),
        (torch.index_copy, "index_copy"),
        (F.gelu, "gelu"),
        (F.max_pool2d_with_indices, "max_pool2d"),
        (torch.Tensor.index_copy_, "index_copy"),
    ],
)
def test_an_operation_has_one_name(function, name):
    assert operation_name(function) == name
    assert (kind_of(function) is None) != (why_none(function) is None)


def test_kinds_of_well_known_operations():
    kinds = {
        torch.matmul: Kind.AFFINE, torch.mul: Kind.PRODUCT, F.gelu: Kind.ELEMENTWISE, torch.sigmoid: Kind.GATE,
        torch.topk: Kind.SELECTION, F.layer_norm: Kind.NORMALISATION, torch.lerp: Kind.COMPOSED,
        torch.Tensor.relu_: Kind.HOMOGENEOUS, torch.fft.fft2: Kind.LINEAR, torch.argmax: None,
    }  # fmt: skip
    assert {f: kind_of(f) for f in kinds} == kinds


def test_what_is_written_out_has_a_kind_that_says_so():
    spelled = {Kind.COMPOSED, Kind.ATTENTION, Kind.RECURRENT, Kind.AFFINE, Kind.PRODUCT}
    assert {kind_of(name) for name in WRITTEN_OUT} <= spelled
    public = [
        n for n, k in KINDS.items() if k in (Kind.COMPOSED, Kind.RECURRENT) or n == "scaled_dot_product_attention"
    ]
    assert set(public) <= set(WRITTEN_OUT)


@pytest.mark.parametrize("name", sorted(n for n, k in KINDS.items() if k is Kind.HOMOGENEOUS))
def test_homogeneous_functions_are_homogeneous(name):
    """f(3 x) = 3 f(x), on whatever tensor the operation takes."""
    torch.manual_seed(0)
    x = torch.rand(1, 4, 6, 6, dtype=torch.float64) + 0.1
    square = x[0, 0] + x[0, 0].T
    a = lambda v: v[0, 0]  # noqa: E731
    calls = {
        "prelu": lambda v: F.prelu(v, torch.tensor([0.3]).double()),
        "rrelu": lambda v: F.rrelu(-v, training=False),
        "lp_pool1d": lambda v: F.lp_pool1d(v[0], 2, 2),
        "lp_pool2d": lambda v: F.lp_pool2d(v, 2, 2),
        "lp_pool3d": lambda v: F.lp_pool3d(v, 2, 2),
        "vector_norm": torch.linalg.vector_norm,
        "linalg_matrix_norm": lambda v: torch.linalg.matrix_norm(v[0]),
        "nuclear_norm": lambda v: torch.norm(a(v), "nuc"),
        "norm_except_dim": lambda v: torch.norm_except_dim(a(v), 2, 0),
        "hypot": lambda v: torch.hypot(v, v.flip(-1)),
        "dist": lambda v: torch.dist(v, v.flip(-1)),
        "linalg_svdvals": lambda v: torch.linalg.svdvals(a(v)),
        "linalg_eigvals": lambda v: torch.linalg.eigvals(a(v)).abs().sum(),
    }
    if name == "linalg_eigvalsh":
        assert torch.allclose(torch.linalg.eigvalsh(3 * square), 3 * torch.linalg.eigvalsh(square))
        return
    function = calls.get(name) or getattr(F, name, None) or getattr(torch, name)
    assert torch.allclose(function(3 * x), 3 * function(x))

"""One name for each operation of torch, however it is called.

`torch.add`, `Tensor.add_`, `x += y`, `torch.ops.aten.add.Tensor` and `torch.Tensor.__radd__` are one operation: "add".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from xaikit.core import torch_private
from xaikit.core.torch_private import NN_FUNCTIONS

NAMESPACES = (torch, torch.Tensor, torch.nn.functional, NN_FUNCTIONS, torch.special, torch.linalg, torch.fft)

# Older or alternative names of torch for the same operation, each followed by the name that is used here.
_ALIASES = """
    absolute:abs arccos:acos arccosh:acosh arcsin:asin arcsinh:asinh arctan:atan arctanh:atanh arctan2:atan2 clip:clamp
    concat:cat concatenate:cat row_stack:vstack divide:div true_divide:div truediv:div multiply:mul subtract:sub
    negative:neg pos:positive moveaxis:movedim swapaxes:transpose swapdims:transpose fix:trunc ger:outer
    greater:gt greater_equal:ge less:lt less_equal:le not_equal:ne inverse:inv pinverse:pinv linalg_inv:inv
    expit:sigmoid psi:digamma gammaln:lgamma multigammaln:mvlgamma gammainc:igamma gammaincc:igammac
    linalg_matmul:matmul linalg_det:det linalg_slogdet:slogdet
    linalg_vecdot:vecdot linalg_diagonal:diagonal linalg_cross:cross linalg_multi_dot:chain_matmul trapz:trapezoid
    linalg_matrix_power:matrix_power linalg_matrix_exp:matrix_exp linalg_cholesky:cholesky linalg_pinv:pinv
    linalg_norm:norm linalg_qr:qr linalg_svd:svd frobenius_norm:norm linalg_vector_norm:vector_norm
    grid_sampler:grid_sample grid_sampler_2d:grid_sample grid_sampler_3d:grid_sample log_sigmoid:logsigmoid
    _softmax:softmax _safe_softmax:softmax _log_softmax:log_softmax affine_grid_generator:affine_grid
    _grouped_mm:grouped_mm transformers::grouped_mm_fallback:grouped_mm
    _to_copy:to _unsafe_view:view lift_fresh:clone alias:contiguous rdiv:rtruediv
    native_channel_shuffle:channel_shuffle native_dropout:dropout _reshape_alias:reshape _index_put_impl:index_put
    _adaptive_avg_pool2d:adaptive_avg_pool2d _adaptive_avg_pool3d:adaptive_avg_pool3d
    _threshold:threshold _fused_rms_norm:rms_norm _sparse_mm:mm spmm:mm _sparse_addmm:addmm
"""
SAME_WITHOUT = ("special_", "unsafe_", "_unsafe_")
SAME_BEFORE = ("_copy", "_with_indices")
ALIASES = dict(pair.rsplit(":", 1) for pair in _ALIASES.split())
_ONE = "neg abs invert pos eq ne lt le gt ge"
_TWO = "add sub mul truediv div pow matmul mod floordiv and or xor lshift rshift"
IN_PLACE_OPERATORS = {f"__i{name}__": name for name in _TWO.split()}
OPERATORS = {
    **{f"__{name}__": name for name in f"{_ONE} {_TWO}".split()},
    **{f"__r{name}__": f"r{name}" for name in _TWO.split()},
    **IN_PLACE_OPERATORS,
    **{"__radd__": "add", "__rmul__": "mul"},  # the order of their operands makes no difference
}


def plain_name(function: Any) -> str:
    """The name by which torch calls a function; operators of other libraries are named with their namespace.

    Args:
        function: what a `__torch_function__` receives: a function, a method, or an operator of `torch.ops`.
    """
    name = torch_private.operator_name(function)  # torch.ops.aten.add, torch.ops.aten.add.Tensor
    return getattr(function, "__name__", str(function)) if name is None else name.removeprefix("aten::")


@lru_cache(maxsize=4096)
def operation_name(function: Any) -> str:
    """The one name of an operation: without namespace, alias, overload, or the mark of working in place.

    Args:
        function: what a `__torch_function__` receives.
    """
    return canonical(plain_name(function))


def canonical(name: str) -> str:
    """The one name of the operation that torch knows by `name`.

    Args:
        name: any name of it, such as ``"add_"``, ``"__iadd__"``, ``"special_expm1"`` or ``"absolute"``.
    """
    if name.startswith("__") and name.endswith("__"):
        if name not in OPERATORS:
            return name  # __getitem__, __setitem__, __len__
        name = OPERATORS[name]
    elif is_in_place_name(name):
        name = name[:-1]
    for prefix in SAME_WITHOUT:
        name = name.removeprefix(prefix)
    name = ALIASES.get(name, name)
    for suffix in SAME_BEFORE:
        name = name if name == "index_copy" else name.removesuffix(suffix)
    return ALIASES.get(name, name)


def is_in_place_name(name: str) -> bool:
    """Whether a function that torch names so writes its result into its first operand: ``"add_"``, ``"__iadd__"``."""
    return name in IN_PLACE_OPERATORS if name.startswith("__") else name.endswith("_")

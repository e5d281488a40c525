"""Normalisations and norms written out as plain operations: means, squares, roots, products.

Each is called as ``norm(function, *args, **kwargs)``; `NotImplemented` says that this form is not written out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.explainers.lrp.rules.normalisation import affine_map
from xaikit.torch_ops import by_name, operation_name, with_statistics
from xaikit.torch_ops.kinds import NATIVE_BATCH_NORMS


def _normalised(x: Tensor, dims: list[int], eps: float, *, centred: bool = True) -> Tensor:
    """(x - mean) / sqrt(var + eps)."""
    centre = x - x.mean(dims, keepdim=True) if centred else x
    return centre / ((centre * centre).mean(dims, keepdim=True) + eps).sqrt()


def layer_norm(function: Any, *args: Any, **kwargs: Any) -> Any:
    """LayerNorm, and RMSNorm, which subtracts no mean."""
    a = by_name(function, args, kwargs)
    dims = list(range(-len(a["normalized_shape"]), 0))
    eps = torch.finfo(a["input"].dtype).eps if a["eps"] is None else a["eps"]
    y = _normalised(a["input"], dims, eps, centred=operation_name(function) != "rms_norm")
    return with_statistics(function, affine_map(y, a["weight"], a.get("bias")))


def group_norm(function: Any, *args: Any, **kwargs: Any) -> Any:
    """GroupNorm."""
    a = by_name(function, args, kwargs)
    return with_statistics(function, _grouped(a, a["num_groups" if "num_groups" in a else "group"]))


def instance_norm(function: Any, *args: Any, **kwargs: Any) -> Any:
    """InstanceNorm; with running statistics it is linear."""
    a = by_name(function, args, kwargs)
    return _grouped(a, a["input"].shape[1]) if a["use_input_stats"] else NotImplemented


def _grouped(a: dict[str, Any], groups: int) -> Tensor:
    x: Tensor = a["input"]
    y = _normalised(x.reshape(len(x), groups, -1), [-1], a["eps"]).reshape(x.shape)
    return affine_map(y, a["weight"], a["bias"], channels=True)


def batch_norm(function: Any, *args: Any, **kwargs: Any) -> Any:
    """BatchNorm: linear with the running statistics, else by those of the batch."""
    a = by_name(function, args, kwargs)
    x = a["input"]
    if not a.get("training", False) and a["running_mean"] is not None:
        return NotImplemented
    y = affine_map(_normalised(x, [0, *range(2, x.ndim)], a["eps"]), a["weight"], a["bias"], channels=True)
    return with_statistics(function, y)


def vector_norm(function: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """(sum |x|^p)^(1/p), along some dimensions."""
    p, dim, keepdim = _norm_arguments(args, kwargs)
    dims = list(range(x.ndim)) if dim is None else [dim] if isinstance(dim, int) else list(dim)
    matrix = "linalg" in getattr(function, "__name__", "") and operation_name(function) == "norm" and len(dims) == 2
    if (
        isinstance(p, str)
        and p != "fro"
        or (matrix and p not in (None, "fro"))
        or kwargs.get("dtype")
        or x.is_complex()
    ):
        return NotImplemented
    p = 2 if p in (None, "fro") else p
    if math.isinf(p):
        return x.abs().amax(dims, keepdim) if p > 0 else x.abs().amin(dims, keepdim)
    if p == 1:
        return x.abs().sum(dims, keepdim)
    return (x * x).sum(dims, keepdim).sqrt() if p == 2 else x.abs().pow(p).sum(dims, keepdim).pow(1 / p)


def _norm_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any, bool]:
    values = dict(zip(("p", "dim", "keepdim"), args, strict=False)) | kwargs
    return values.get("p", values.get("ord")), values.get("dim"), bool(values.get("keepdim", False))


def normalize(_function: Any, x: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, *_: Any, **__: Any) -> Any:
    """X by its norm."""
    return x / torch.linalg.vector_norm(x, p, dim, keepdim=True).clamp_min(eps)


def local_response_norm(
    _function: Any, x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """X / (k + alpha mean of the squares of some channels)^beta."""
    squares = F.pad((x * x).movedim(1, -1), (size // 2, (size - 1) // 2)).unfold(-1, size, 1).mean(-1)
    return x / (k + alpha * squares.movedim(-1, 1)).pow(beta)


def lp_pool(
    function: Any, x: Tensor, norm_type: float, kernel_size: Any, stride: Any = None, ceil_mode: bool = False
) -> Any:
    """(sum of x^p over each window)^(1/p)."""
    n = int(operation_name(function)[-2])
    count = kernel_size**n if isinstance(kernel_size, int) else math.prod(kernel_size)
    mean = getattr(F, f"avg_pool{n}d")(x.pow(norm_type), kernel_size, stride, 0, ceil_mode)
    return (mean.sign() * F.relu(mean.abs()) * count).pow(1 / norm_type)


NORMS: dict[str, Callable[..., Any]] = {
    **dict.fromkeys(("layer_norm", "rms_norm", "native_layer_norm"), layer_norm),
    **dict.fromkeys(("group_norm", "native_group_norm"), group_norm),
    "instance_norm": instance_norm,
    **dict.fromkeys(("batch_norm", *NATIVE_BATCH_NORMS), batch_norm),
    **dict.fromkeys(("norm", "vector_norm"), vector_norm),
    "normalize": normalize,
    "local_response_norm": local_response_norm,
    **dict.fromkeys(("lp_pool1d", "lp_pool2d", "lp_pool3d"), lp_pool),
    "std": lambda _function, *args, **kwargs: torch.var(*args, **kwargs).sqrt(),
    "std_mean": lambda _function, *args, **kwargs: _rooted(torch.var_mean(*args, **kwargs)),
    "dist": lambda _function, x, y, p=2: torch.linalg.vector_norm(x - y, p),
}


def _rooted(moments: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return moments[0].sqrt(), moments[1]

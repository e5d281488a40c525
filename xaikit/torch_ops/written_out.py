"""Fused operations written out as plain ones, so that a method needs rules only for the plain ones.

Each is called as ``written(function, *args, **kwargs)`` with the torch function and its arguments, and computes what
the function computes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xaikit.torch_ops import attention, recurrent
from xaikit.torch_ops.names import operation_name

norm = torch.linalg.vector_norm


def _times(value: Any, factor: Any) -> Any:
    """A product, left out where the factor is 1."""
    return value if isinstance(factor, (int, float)) and factor == 1 else value * factor


def _sum_with(
    product: Callable[[Tensor, Tensor], Tensor], x: Tensor, a: Tensor, b: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:
    """The sum beta * x + alpha * product(a, b)."""
    result: Tensor = _times(product(a, b), alpha)
    return result if isinstance(beta, (int, float)) and beta == 0 else _times(x, beta) + result


def bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x^T W y + bias for each output, W of shape (out, in1, in2)."""
    result = torch.einsum("...i,oij,...j->...o", x, weight, y)
    return result if bias is None else result + bias


def cosine_similarity(x: Tensor, y: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The product of two vectors over their lengths."""
    u, w = (v / norm(v, dim=dim, keepdim=True).clamp(min=eps) for v in (x, y))
    return (u * w).sum(dim)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """The first half, times the sigmoid of the second."""
    signal, control = x.chunk(2, dim)
    return signal * torch.sigmoid(control)


def grouped_mm(
    x: Tensor, weights: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    """Products of groups of rows, each with a matrix of its own; `offs` are the ends of the groups.

    Args:
        x: (rows, features), in groups, or (groups, rows, features).
        weights: (groups, features, out), or (features, out of all groups) where x is in three dimensions.
        offs: where each group of rows ends; None for batches of matrices.
        bias: added to the result.
    """
    if offs is None:
        result = torch.bmm(x, weights)
    elif x.ndim == 2 and weights.ndim == 3:
        result = torch.cat([part @ w for part, w in zip(_groups(x, offs, 0), weights, strict=True)])
    elif x.ndim == 3:
        result = torch.cat([a @ w for a, w in zip(x, _groups(weights, offs, 1), strict=True)], 1)
    else:
        pairs = zip(_groups(x, offs, 1), _groups(weights, offs, 0), strict=True)
        result = torch.stack([a @ w for a, w in pairs])
    return result if bias is None else result + bias


def _groups(x: Tensor, offs: Tensor, dim: int) -> list[Tensor]:
    ends = [0, *offs.tolist()]
    pieces = [x.narrow(dim, a, b - a) for a, b in zip(ends[:-1], ends[1:], strict=True)]
    left_over = x.shape[dim] - ends[-1]
    if left_over and dim == 0:  # rows behind the last group are zeros
        pieces[-1] = torch.cat([pieces[-1], torch.zeros_like(x.narrow(dim, ends[-1], left_over))], dim)
    return pieces


def logaddexp(x: Tensor, y: Tensor) -> Tensor:
    """A smooth maximum of two tensors."""
    return torch.stack(torch.broadcast_tensors(x, y)).logsumexp(0)


def pdist(x: Tensor, p: float = 2.0) -> Tensor:
    """The distances of all pairs of rows."""
    first, second = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return norm(x[first] - x[second], p, -1)


def with_statistics(function: Any, y: Tensor) -> Any:
    """The result of a normalisation; exported programs call operators that return statistics, too, which nothing reads.

    Args:
        function: the torch function that was called.
        y: the result.
    """
    native = "native" in operation_name(function)
    return (y, *(y.new_empty(0) for _ in range(2))) if native else y


FORMULAS: dict[str, Callable[..., Tensor]] = {
    "lerp": lambda start, end, weight: (1 - weight) * start + weight * end,
    "addcmul": lambda x, a, b, value=1: x + _times(a * b, value),
    "addcdiv": lambda x, a, b, value=1: x + _times(a / b, value),
    "baddbmm": partial(_sum_with, torch.bmm),
    "addmm": partial(_sum_with, torch.mm),
    "addmv": partial(_sum_with, torch.mv),
    "addr": partial(_sum_with, torch.outer),
    "addbmm": partial(_sum_with, lambda a, b: torch.bmm(a, b).sum(0)),
    "bilinear": bilinear,
    "cosine_similarity": cosine_similarity,
    "glu": glu,
    "logaddexp": logaddexp,
    "logaddexp2": lambda x, y: logaddexp(x * math.log(2), y * math.log(2)) / math.log(2),
    "pairwise_distance": lambda x, y, p=2.0, eps=1e-6, keepdim=False: norm(x - y + eps, p, -1, keepdim),
    "cdist": lambda x, y, p=2.0, *_, **__: norm(x.unsqueeze(-2) - y.unsqueeze(-3), p, -1),
    "pdist": pdist,
    "msort": lambda x: x.sort(0).values,
    "grouped_mm": grouped_mm,
}


def _without_function(formula: Callable[..., Tensor]) -> Callable[..., Any]:
    return lambda _function, *args, **kwargs: formula(*args, **kwargs)


WRITTEN_OUT: dict[str, Callable[..., Any]] = {
    **{name: _without_function(formula) for name, formula in FORMULAS.items()},
    "scaled_dot_product_attention": attention.scaled_dot_product_attention,
    "multi_head_attention_forward": attention.multi_head_attention,
    **dict.fromkeys(recurrent.CELLS, recurrent.recurrent),
    **{f"{name}_cell": recurrent.cell for name in recurrent.CELLS},
}

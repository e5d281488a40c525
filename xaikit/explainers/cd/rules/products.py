"""Products of decomposed tensors: each cross term goes in halves to the two parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed, fractions, on_total
from xaikit.explainers.cd.linear import completed, goes_by_total, nothing_irrelevant
from xaikit.explainers.cd.registry import cd_rule
from xaikit.torch_ops import operation_name

Bilinear = Callable[[Tensor, Tensor], Tensor]


def product(bilinear: Bilinear, x: Any, y: Any, share: Tensor | None = None) -> Decomposed:
    """B(x, y) with x = r + s = t and y = r' + s' = t': the relevant part is (B(r, t') + B(t, r')) / 2.

    With a constant on one side it is a linear map of the other. The operands broadcast.
    """
    ndim = max(x.dim(), y.dim())
    if isinstance(x, Decomposed) and isinstance(y, Decomposed):
        both = shares.merged(x.aligned_share(ndim), y.aligned_share(ndim), ndim) if share is None else share
        half_x, half_y = 0.5 * x.total, 0.5 * y.total
        many = goes_by_total(x, y)
        parts_of_x, parts_of_y = ((v.aligned_parts(ndim)[0] if many else v.aligned_parts(ndim)) for v in (x, y))
        if bilinear is torch.matmul and x.shape[:-2] == y.shape[:-2] and ndim > 2:
            of_x, of_y = _in_rows(parts_of_x, half_y), _in_columns(half_x, parts_of_y)
        else:
            of_x, of_y = bilinear(parts_of_x, half_y), bilinear(half_x, parts_of_y)
        if many:
            parts = torch.empty((2, *of_x.shape), dtype=of_x.dtype, device=of_x.device)
            torch.add(of_x, of_y, out=parts[0])
            # Rows of the two are rows of the product, but for those of a matrix on the right, which are summed over.
            by_row = bilinear is not torch.matmul or ndim > 2
            nothing = [
                rows if value.dim() == ndim and (by_row or value is x) else rows.all(1, keepdim=True)
                for value, rows in ((x, nothing_irrelevant(x)), (y, nothing_irrelevant(y)))
            ]
            return completed(x, parts, bilinear(x.total, y.total), nothing[0] & nothing[1], both, now=False)
        return x.like(of_x + of_y, both)
    # Torch multiplies no batch, which the parts are, with a sparse matrix.
    x, y = (t.to_dense() if t.layout != torch.strided else t for t in (x, y))
    if isinstance(x, Decomposed):
        return x.like(bilinear(x.aligned_parts(ndim), y), x.aligned_share(ndim) if share is None else share)
    return y.like(bilinear(x, y.aligned_parts(ndim)), y.aligned_share(ndim) if share is None else share)


def _in_rows(parts: Tensor, y: Tensor) -> Tensor:
    """Parts (..., *batch, L, E) times y (*batch, E, S): the rows of all parts under each other, so that y stays one."""
    lead, rows = parts.shape[: -y.dim()], parts.flatten(0, -y.dim() - 1)
    rows = rows.movedim(0, -3)
    result = torch.matmul(rows.flatten(-3, -2), y).unflatten(-2, rows.shape[-3:-1])
    return result.movedim(-3, 0).unflatten(0, lead)


def _in_columns(x: Tensor, parts: Tensor) -> Tensor:
    """The same for x (*batch, L, E) times parts (..., *batch, E, S), their columns side by side."""
    lead, columns = parts.shape[: -x.dim()], parts.flatten(0, -x.dim() - 1)
    if parts.stride(-1) == 1:
        columns = columns.movedim(0, -2)
        result = torch.matmul(x, columns.flatten(-2)).unflatten(-1, columns.shape[-2:])
        return result.movedim(-2, 0).unflatten(0, lead)
    columns = columns.mT.movedim(0, -3)
    result = torch.matmul(x, columns.flatten(-3, -2).mT).unflatten(-1, columns.shape[-3:-1])
    return result.movedim(-2, 0).unflatten(0, lead)


@cd_rule("mul")
def mul(function: Any, input: Any, other: Any, **kwargs: Any) -> Decomposed:
    """A product."""
    if not isinstance(input, Tensor) or not isinstance(other, Tensor):
        x, factor = (input, other) if isinstance(input, Decomposed) else (other, input)
        return x.like(x.parts * factor)
    return product(torch.mul, input, other)


@cd_rule("div", "rtruediv")
def div(function: Any, input: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    """Dividing by y scales each part of x by the total of y; a constant over y is shared as the parts of y are."""
    if operation_name(function) == "rtruediv":
        input, other = other, input
    if rounding_mode is not None:
        return torch.div(on_total(input), on_total(other), rounding_mode=rounding_mode)
    if not isinstance(input, Decomposed):
        ndim = max(input.dim() if isinstance(input, Tensor) else 0, other.dim())
        aligned = other.aligned(ndim)
        return aligned.like(fractions(aligned) * (input / other.total))
    if not isinstance(other, Tensor):
        return input.like(input.parts / other)
    return product(torch.div, input, on_total(other))


@cd_rule("matmul", "bmm", "mm", "mv", "rmatmul")
def matmul(function: Any, input: Any, other: Any, **kwargs: Any) -> Any:
    """Matrix products; a vector on either side is a matrix with one row or column."""
    x, y = (other, input) if operation_name(function) == "rmatmul" else (input, other)
    if y.dim() == 1:
        return matmul(torch.matmul, x, y.unsqueeze(-1)).squeeze(-1)
    if x.dim() == 1:
        return matmul(torch.matmul, x.unsqueeze(0), y).squeeze(-2)
    return product(torch.matmul, x, y, _matmul_share(x, y))


def _matmul_share(x: Any, y: Any) -> Tensor | None:
    """The share of x y: rows as in x, columns as in y."""
    ndim = max(x.dim(), y.dim())
    operands = [(value, dim) for value, dim in ((x, -1), (y, -2)) if isinstance(value, Decomposed)]
    first, *others = (shares.without_dim(value.aligned_share(ndim), dim) for value, dim in operands)
    return shares.merged(first, others[0], ndim) if others else first

"""Tensors of models that are not dense: adjacency matrices and other constants, as COO, CSR and kin."""

from __future__ import annotations

import torch
from torch import Tensor


def dense_parts(x: Tensor) -> tuple[Tensor, ...]:
    """The dense tensors that hold a tensor's entries and their places; for a dense one, the tensor itself.

    Args:
        x: of any layout.
    """
    if x.layout == torch.strided:
        return (x,)
    if x.layout == torch.sparse_coo:
        x = x.coalesce()
        return x.values(), x.indices()
    if x.layout == torch.jagged:
        return x.values(), x.offsets()  # type: ignore[attr-defined]
    rows_first = x.layout in (torch.sparse_csr, torch.sparse_bsr)
    if not rows_first and x.layout not in (torch.sparse_csc, torch.sparse_bsc):
        return (x.to_dense(),)
    ends, places = (x.crow_indices(), x.col_indices()) if rows_first else (x.ccol_indices(), x.row_indices())
    return x.values(), ends, places


def same_numbers(x: Tensor, y: Tensor) -> bool:
    """Whether two tensors hold the same numbers at the same places, which `torch.equal` tells of dense ones alone.

    Args:
        x: of any layout.
        y: of any layout.
    """
    if x.layout != y.layout or x.shape != y.shape:
        return False
    if x.is_meta or y.is_meta:
        return x.is_meta and y.is_meta  # neither holds numbers
    return all(torch.equal(a, b) for a, b in zip(dense_parts(x), dense_parts(y), strict=True))

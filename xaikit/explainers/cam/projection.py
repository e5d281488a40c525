"""The first principal component of a layer's channels, with an exact first derivative."""

from __future__ import annotations

import torch
from torch import Tensor


def first_component(contributions: Tensor) -> Tensor:
    """The projection of each position's channels on their first principal direction, (N, 1, ...).

    With X the contributions as a matrix (positions, channels), its columns centred, and v the first right singular
    vector of X, this is X v. A singular vector has no sign of its own: it is chosen so that X v grows with the sum of
    the contributions over the channels. The derivative is that of the component, exact where the largest singular
    value occurs once; a second derivative is not.

    Args:
        contributions: (N, K, ...).
    """
    shape = contributions.shape
    wide = contributions if contributions.dtype == torch.float64 else contributions.float()
    x = wide.flatten(2).transpose(1, 2)
    sums = x.sum(2)
    x = x - x.mean(1, keepdim=True)
    positions, channels = x.shape[1:]
    if channels <= positions:
        heat = (x @ _leading(x.transpose(1, 2) @ x)[..., None])[..., 0]
    else:  # X v = G u / |X^T u| with G = X X^T and u its first eigenvector
        gram = x @ x.transpose(1, 2)
        u = _leading(gram)
        scale = torch.linalg.vector_norm((x.transpose(1, 2) @ u[..., None])[..., 0], dim=1, keepdim=True)
        heat = (gram @ u[..., None])[..., 0] / torch.where(scale > 0, scale, 1)
    agreement = (heat.detach() * (sums - sums.mean(1, keepdim=True)).detach()).sum(1, keepdim=True)
    heat = torch.where(agreement < 0, -heat, heat)
    return heat.to(contributions.dtype).view(shape[0], 1, *shape[2:])


def _leading(matrices: Tensor) -> Tensor:
    """The unit eigenvector of the largest eigenvalue of symmetric matrices (N, D, D).

    torch's derivative of all eigenvectors is infinite where any two eigenvalues are equal, as those at 0 are. That of
    the first alone is (lambda - G)^+ dG u.
    """
    with torch.no_grad():
        # What is not finite has no eigenvectors; the products with it stay so.
        values, vectors = torch.linalg.eigh(matrices.where(matrices.isfinite(), 0))
        top, u = values[:, -1:], vectors[..., -1]
    if not matrices.requires_grad:
        return u
    gaps = top - values
    inverse = torch.where(gaps > torch.finfo(gaps.dtype).eps * top.abs(), 1 / gaps, 0)
    change = (matrices @ u[..., None])[..., 0]
    change = change - change.detach()
    along = (vectors.transpose(1, 2) @ change[..., None])[..., 0]
    return u + (vectors @ (inverse * along)[..., None])[..., 0]

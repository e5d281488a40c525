"""Linear imputation: missing places of an image as the weighted mean of their eight neighbours, all at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

CHECK_EVERY = 4  # iterations between two looks at which images are solved


def impute(images: Tensor, missing: Tensor, *, tolerance: float | None = None) -> Tensor:
    """The images (M, C, H, W) with their `missing` places, flags (M, 1, H, W), filled in.

    A missing value is the weighted mean of its neighbours inside the image, known or missing: 1/6 for each direct
    neighbour and 1/12 for each diagonal one. So (D - W) u = W x over the missing places, where W holds the weights and
    D their sums (Rong et al. 2022, arXiv:2202.00449). The matrix is symmetric and positive definite. It is solved by
    conjugate gradients, scaled by D, for all images together. An image is done as soon as its residual, relative to
    the right-hand side, is below `tolerance` (None: 3e-6 in float32, 1e-13 in float64). An image without a known place
    becomes 0.
    """
    tolerance = (1e-13 if images.dtype == torch.float64 else 3e-6) if tolerance is None else tolerance
    work = images if images.dtype == torch.float64 else images.float()
    free = missing.expand_as(images).flatten(0, 1).to(work)
    observed = work.flatten(0, 1) * (1 - free)
    right = _neighbours(_bordered(observed)) * free
    sums = _neighbours(_bordered(torch.ones_like(observed[:1])))[0]
    sums = torch.where(sums > 0, sums, 1)  # an image of one place has no neighbours
    solved = _conjugate_gradients(right, free, sums, tolerance)
    return (observed + solved).view(images.shape).to(images.dtype)


def _conjugate_gradients(right: Tensor, free: Tensor, sums: Tensor, tolerance: float) -> Tensor:
    """Solve (D - W) u = right over the `free` places of each map, all shaped (M, H, W), D = diag(sums)."""
    solution, index = torch.zeros_like(right), torch.arange(len(right), device=right.device)
    height, width = right.shape[1:]
    u, r = torch.zeros_like(right), right.clone()
    z = r / sums
    direction = _bordered(z)
    energy = _dot(r, z)
    enough = energy * tolerance**2
    # The number of steps grows with the longer side; after so many, only rounding errors still change.
    for step in range(1, 40 * (height + width) + 1):
        inner = direction[:, 1:-1, 1:-1]
        q = (inner * sums).sub_(_neighbours(direction)).mul_(free)
        length = _ratio(energy, _dot(inner, q))
        u.addcmul_(inner, length)
        r.addcmul_(q, length, value=-1)
        torch.div(r, sums, out=z)
        before, energy = energy, _dot(r, z)
        inner.mul_(_ratio(energy, before)).add_(z)
        if step % CHECK_EVERY:
            continue
        going = (energy > enough).flatten()
        n_open = int(going.sum())
        if n_open == 0:
            break
        if n_open < 0.8 * len(going):  # taking maps out costs a copy of the others
            solution[index[~going]] = u[~going]
            index, u, r, z, free = (t[going] for t in (index, u, r, z, free))
            direction, energy, enough = direction[going], energy[going], enough[going]
    solution[index] = u
    return solution


def _neighbours(bordered: Tensor) -> Tensor:
    """Sum of w_ij x_j over the neighbours j of each place, of maps (M, H + 2, W + 2) with a border of zeros.

    The weights are [1 2 1]^T [1 2 1] / 12 without the middle, so two passes with three terms each are enough.
    """
    rows = bordered[:, :-2] + bordered[:, 2:]
    rows.add_(bordered[:, 1:-1], alpha=2)
    both = rows[:, :, :-2] + rows[:, :, 2:]
    both.add_(rows[:, :, 1:-1], alpha=2)
    return both.mul_(1 / 12).sub_(bordered[:, 1:-1, 1:-1], alpha=1 / 3)


def _bordered(maps: Tensor) -> Tensor:
    return F.pad(maps, (1, 1, 1, 1))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum((1, 2), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, 0 where b is 0: such a map is solved exactly."""
    return torch.where(b > 0, a / b, 0)

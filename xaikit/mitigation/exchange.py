"""A masked region of some samples exchanged for that of others."""

from __future__ import annotations

import torch
from torch import Tensor


def is_text(x: Tensor) -> bool:
    """Whether these are integer tokens (N, T), whose masked ones stand at any position.

    Args:
        x: inputs (N, ...).
    """
    return x.ndim == 2 and not x.is_floating_point()


def exchanged(x: Tensor, mask: Tensor, donors: Tensor, donor_masks: Tensor) -> Tensor:
    """Samples with their masked region taken from others.

    Of tokens (N, T), the masked ones become those that the donor has in its own mask, in order, repeated where these
    are fewer; where the donor has none, they stay.

    Args:
        x: (N, ...).
        mask: of x, of its shape.
        donors: like x, the samples whose regions are taken.
        donor_masks: the masks of these.
    """
    if x.is_floating_point():
        return x + mask * (donors - x)
    if not is_text(x):
        return torch.where(mask > 0.5, donors, x)
    inside, offered = mask > 0.5, donor_masks > 0.5
    number = offered.sum(1, keepdim=True)
    tokens = donors.gather(1, offered.int().argsort(dim=1, descending=True, stable=True))  # the masked ones first
    turn = (inside.cumsum(1) - 1).clamp_min(0) % number.clamp_min(1)
    return torch.where(inside & (number > 0), tokens.gather(1, turn), x)

"""Which sample lends its shortcut to which: one of another class, or one of its own class."""

from __future__ import annotations

import torch
from torch import Tensor


def donors_of(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For each sample the index of a random one of another class, (N,).

    Args:
        labels: classes, (N,), at least two of them.
        generator: of the draw.
    """
    n = len(labels)
    chosen = torch.randint(n, (n,), generator=generator, device="cpu")
    for _ in range(64):
        same = labels[chosen] == labels
        if not bool(same.any()):
            break
        chosen[same] = torch.randint(n, (int(same.sum()),), generator=generator, device="cpu")
    return chosen


def donors_within(labels: Tensor, generator: torch.Generator) -> Tensor:
    """For each sample the index of another one of its class, in turn after an order at random, (N,).

    Args:
        labels: classes, (N,); the only sample of a class gets itself.
        generator: of the order.
    """
    donors = torch.empty_like(labels, dtype=torch.long)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator, device="cpu")]
        donors[members] = members.roll(1)
    return donors

"""Which sample lends its shortcut to which: one of another class, or one of its own class."""

from __future__ import annotations

import torch
from torch import Tensor

from xaikit.factors.donors import number_without, shares_lent


def lenders(labels: Tensor, shows: Tensor) -> Tensor:
    """Which samples lend, bool (N,): all, but where it is seldom shown fewer that do not show it, see `shares_lent`.

    Args:
        labels: classes, (N,).
        shows: whether each sample shows the shortcut, bool (N,).
    """
    shows, labels = shows.cpu(), labels.cpu()
    lends = torch.ones_like(shows)
    classes = labels.unique().tolist()
    shares = shares_lent({label: float(shows[labels == label].double().mean()) for label in classes})
    for label, share in shares.items():
        number = number_without(int((shows & (labels == label)).sum()), share)
        without = ((labels == label) & ~shows).nonzero()[:, 0]
        lends[without[number:]] = False
    return lends


def donors_of(labels: Tensor, generator: torch.Generator, lends: Tensor | None = None) -> Tensor:
    """For each sample the index of a random one of another class, (N,).

    Args:
        labels: classes, (N,), at least two of them.
        generator: of the draw.
        lends: which samples lend, bool (N,), some of each class; None: all.
    """
    able = torch.arange(len(labels), device="cpu") if lends is None else lends.nonzero()[:, 0]
    n = len(able)
    chosen = able[torch.randint(n, labels.shape, generator=generator, device="cpu")]
    for _ in range(64):
        same = labels[chosen] == labels
        if not bool(same.any()):
            break
        chosen[same] = able[torch.randint(n, (int(same.sum()),), generator=generator, device="cpu")]
    return chosen


def donors_within(labels: Tensor, generator: torch.Generator, lends: Tensor | None = None) -> Tensor:
    """For each sample the index of another one of its class, in turn after an order at random, (N,).

    Args:
        labels: classes, (N,); the only sample of a class gets itself.
        generator: of the order.
        lends: which samples lend, bool (N,), some of each class; None: all.
    """
    donors = torch.empty_like(labels, dtype=torch.long)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator, device="cpu")]
        able = members if lends is None else members[lends[members]]
        donors[members] = able.roll(1)[torch.arange(len(members), device="cpu") % len(able)]
    return donors

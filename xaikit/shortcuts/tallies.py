"""What a scan counts, batch by batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xaikit.core.intervals import paired_interval, share_interval
from xaikit.core.structure import flatten
from xaikit.factors.donors import Donors
from xaikit.shortcuts.effects import LEVEL, Effect
from xaikit.shortcuts.members import ScanMember

PICTURES = 3  # exchanged samples that are kept of a factor


class PairedBatch(NamedTuple):
    """Samples with their donors.

    Attributes:
        x: inputs.
        y: classes, (N,).
        mask: of the samples, or None.
        predicted: classes of the samples as they are.
        others: donors of other classes than the predicted ones; their labels are these classes.
        same: donors of the predicted classes.
    """

    x: Any
    y: Tensor
    mask: Any
    predicted: Tensor
    others: Donors
    same: Donors


class BaseTally:
    """What does not depend on the factor: classes of samples and donors, and what is right without any exchange."""

    def __init__(self) -> None:
        self._labels: list[Tensor] = []
        self._donors: list[Tensor] = []
        self._right: list[Tensor] = []
        self.samples = 0

    def count(self, batch: PairedBatch) -> None:
        """Add a batch.

        Args:
            batch: samples with their donors.
        """
        self._labels.append(batch.y.cpu())
        self._donors.append(batch.others.labels)
        self._right.append((batch.predicted == batch.y).cpu())
        self.samples += len(batch.y)

    @property
    def accuracy(self) -> float:
        """The share of right predictions on the samples as they are."""
        return float(torch.cat(self._right).double().mean())

    @property
    def labels(self) -> Tensor:
        """The classes of the samples, (N,)."""
        return torch.cat(self._labels)

    @property
    def donors(self) -> Tensor:
        """The classes of their donors, (N,)."""
        return torch.cat(self._donors)


class FactorTally:
    """What the exchange of one factor does.

    Args:
        member: the factor, and what is known of its input.
    """

    def __init__(self, member: ScanMember) -> None:
        self._factor, self._facts = member
        self.title = self._factor.title
        self._changed: list[Tensor] = []
        self._right: list[Tensor] = []
        self._followed: list[Tensor] = []
        self._damaged: list[Tensor] = []
        self._size: list[Tensor] = []
        self._kept: list[tuple[bool, Tensor]] = []

    def count(self, batch: PairedBatch, predict: Callable[[Any], Tensor]) -> None:
        """Exchange the factor and add what becomes of the predictions.

        Args:
            batch: samples with their donors.
            predict: inputs -> predicted classes.
        """
        y, target = batch.y, batch.others.labels.to(batch.y.device)
        exchanged, sizes = self._exchanged(batch, batch.others)
        control, control_sizes = self._exchanged(batch, batch.same)
        after = predict(exchanged) if bool(sizes.any()) else batch.predicted
        aside = predict(control) if bool(control_sizes.any()) else batch.predicted
        was_other = batch.predicted != target
        followed = (after == target) & was_other
        self._changed.append((after != batch.predicted).cpu())
        self._right.append((after == y).cpu())
        self._followed.append(followed.cpu())
        self._damaged.append(((aside == target) & was_other).cpu())
        self._size.append(sizes.cpu())
        self._keep(batch, exchanged, followed)

    def _exchanged(self, batch: PairedBatch, donors: Donors) -> tuple[Any, Tensor]:
        """The samples with the factor of donors, and which share of each sample's numbers is another one then."""
        changed = self._factor.exchange(
            batch.x, donors.x, masks=batch.mask, donor_masks=donors.masks, facts=self._facts
        )
        pairs = zip(flatten(batch.x)[0], flatten(changed)[0], strict=True)
        shares = [(a != b).flatten(1).double().mean(1) for a, b in pairs]
        return changed, torch.stack(shares).amax(0)

    def _keep(self, batch: PairedBatch, exchanged: Any, followed: Tensor) -> None:
        """Some images as they are, the donors and the exchanged images, those that were followed first."""
        x = flatten(batch.x)[0][0]
        if x.ndim != 4 or sum(is_followed for is_followed, _ in self._kept) >= PICTURES:
            return
        for row in followed.int().argsort(descending=True, stable=True)[:PICTURES].tolist():
            parts = (x[row], flatten(batch.others.x)[0][0][row], flatten(exchanged)[0][0][row])
            self._kept.append((bool(followed[row]), torch.stack(parts).cpu()))
        self._kept = sorted(self._kept, key=lambda item: not item[0])[:PICTURES]

    def pictures(self) -> Tensor | None:
        """Images as they are, donors and exchanged ones, (k, 3, C, H, W); None for other data."""
        return torch.stack([picture for _, picture in self._kept]) if self._kept else None

    def effect(self, base: BaseTally, factors: int = 1) -> Effect:
        """What came of all batches.

        Args:
            base: what does not depend on the factor.
            factors: that are measured; among all their classes the one that leads is chosen.
        """
        right, labels = torch.cat(self._right), base.labels
        followed, damaged = torch.cat(self._followed), torch.cat(self._damaged)
        by_class = {int(c): right[labels == c].double().mean().item() for c in labels.unique()}
        worst = min(by_class, key=lambda c: by_class[c])
        classes = [int(c) for c in base.donors.unique()]
        # One of several classes is picked, so each has an interval of a higher level (Bonferroni).
        level = 1 - (1 - LEVEL) / (len(classes) * factors)
        leads = {c: paired_interval(followed[base.donors == c], damaged[base.donors == c], level) for c in classes}
        leading = max(classes, key=lambda c: leads[c].low)
        accuracy = float(right.double().mean())
        return Effect(
            title=self.title,
            spec=self._factor.spec(),
            nature=self._factor.nature,
            changed=share_interval(torch.cat(self._changed), LEVEL),
            follows=paired_interval(followed, damaged, LEVEL),
            leading_class=leading,
            leads=leads[leading],
            accuracy=accuracy,
            lost=base.accuracy - accuracy,
            worst_class=worst,
            worst_accuracy=by_class[worst],
            size=float(torch.cat(self._size).mean()),
            changed_samples=tuple(torch.cat(self._changed).nonzero()[:, 0].tolist()),
        )

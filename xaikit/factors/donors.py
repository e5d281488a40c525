"""Donors: samples of every class that lend what is exchanged, and their pairing with other samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xaikit.core.batch import Batch
from xaikit.core.structure import flatten
from xaikit.factors.exchange import mask_like

MOST_DONORS = 512  # for all classes together


class Donors(NamedTuple):
    """Samples that lend, one for each sample of a batch.

    Attributes:
        x: their inputs, in the structure of the model's.
        labels: their classes, (N,).
        masks: of the first of their inputs, or None.
    """

    x: Any
    labels: Tensor
    masks: Tensor | None


class DonorPool:
    """The first samples of each class, on the CPU.

    Args:
        batches: (inputs, labels, masks) of the data, which are read until every one of `classes` has enough.
        classes: how many there may be.
        most: samples of all classes together; at least one of each.
    """

    def __init__(self, batches: Iterable[Batch], classes: int, most: int = MOST_DONORS) -> None:
        quota = max(1, most // max(1, classes))
        rows: list[tuple[Tensor, ...]] = []
        masks: list[Tensor | None] = []
        labels: list[int] = []
        numbers: list[int] = []
        begin = 0
        for batch in batches:
            x, y, mask = batch[:3]
            tensors, self._rebuild = flatten(x)
            inside = None if mask is None else mask_like(mask, tensors[0])
            for row, label in enumerate(y.tolist()):
                if labels.count(label) < quota:
                    rows.append(tuple(t[row].detach().cpu().clone() for t in tensors))
                    masks.append(None if inside is None else inside[row].detach().cpu().clone())
                    labels.append(label)
                    numbers.append(begin + row)
            begin += len(y)
            if all(labels.count(label) == quota for label in range(classes)):
                break
        self.tensors = tuple(torch.stack(parts) for parts in zip(*rows, strict=True))
        self.labels = torch.tensor(labels, device="cpu")
        self.numbers = torch.tensor(numbers, device="cpu")
        has_masks = [m for m in masks if m is not None]
        self.masks = torch.stack(has_masks) if len(has_masks) == len(rows) else None
        self.classes = sorted(set(labels))

    def take(self, rows: Tensor, device: torch.device) -> Donors:
        """Some of the samples.

        Args:
            rows: their numbers in the pool, (N,).
            device: where to.
        """
        masks = None if self.masks is None else self.masks[rows].to(device)
        return Donors(self._rebuild(tuple(t[rows].to(device) for t in self.tensors)), self.labels[rows], masks)

    def of_other_classes(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """For each sample a donor of another class: first the class is drawn, then the donor, (N,).

        Args:
            labels: classes of the samples, (N,).
            generator: of the draws.
        """
        return self._draw([[c for c in self.classes if c != label] for label in labels.tolist()], generator)

    def of_same_class(self, labels: Tensor, numbers: Tensor, generator: torch.Generator) -> Tensor:
        """For each sample a donor of its own class that is not itself, where there is one, (N,).

        Args:
            labels: classes of the samples, (N,).
            numbers: of the samples in the data, (N,).
            generator: of the draws.
        """
        choices = [[label] if label in self.classes else self.classes for label in labels.tolist()]
        rows = self._draw(choices, generator)
        second = self._draw(choices, generator)
        return torch.where(self.numbers[rows] == numbers, second, rows)

    def _draw(self, choices: list[list[int]], generator: torch.Generator) -> Tensor:
        members = {label: (self.labels == label).nonzero()[:, 0] for label in self.classes}
        rows = []
        for classes in choices:
            label = classes[int(torch.randint(len(classes), (), generator=generator, device="cpu"))]
            rows.append(members[label][int(torch.randint(len(members[label]), (), generator=generator, device="cpu"))])
        return torch.stack(rows)

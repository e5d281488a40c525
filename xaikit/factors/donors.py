"""Donors: samples of every class that lend what is exchanged, and their pairing with other samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError
from xaikit.core.masks import place_of_mask
from xaikit.core.structure import flatten
from xaikit.factors.exchange import mask_like

MOST_DONORS = 512  # for all classes together
T = TypeVar("T")


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


def shares_lent(shares: Mapping[int, float]) -> dict[int, float]:
    """How often the lenders of each class show something, from how often its samples do.

    Of what is rare in all classes the one that shows it most does in half of its lenders, the others in proportion. So
    it is lent often enough to be seen, and tells of the class what it told.

    Args:
        shares: by class, of the samples that show it.
    """
    most = max(shares.values(), default=1.0)
    scale = 0.5 / most if 0 < most < 0.5 else 1.0
    return {label: share * scale for label, share in shares.items()}


def number_without(showing: int, share: float) -> int:
    """How many samples without it lend beside those with it, so that these have their share.

    Args:
        showing: how many show it and lend.
        share: of the lenders.
    """
    return round(showing * (1 - share) / share) if showing and share else 10**9


def balanced(
    showing: Mapping[int, list[T]], others: Mapping[int, list[T]], counts: Mapping[int, list[int]], most: int
) -> dict[int, list[T]]:
    """By class the samples that lend, in the shares of `shares_lent`.

    Args:
        showing: by class, samples that show it, at most `most`.
        others: by class, samples that do not, likewise.
        counts: by class, how many samples were read, and how many of them show it.
        most: of a class.
    """
    chosen = {}
    for label, share in shares_lent({label: shows / n for label, (n, shows) in counts.items()}).items():
        with_it = showing.get(label, [])[: max(1, round(most * share))]
        without = others.get(label, [])[: min(most - len(with_it), number_without(len(with_it), share))]
        chosen[label] = [*with_it, *without]
    return dict(sorted(chosen.items()))


def count(counts: dict[int, list[int]], labels: Tensor, shows: list[bool]) -> None:
    """Add a batch to the counts that `balanced` takes.

    Args:
        counts: by class, how many samples were read, and how many of them show it.
        labels: classes, (N,).
        shows: whether each sample shows it.
    """
    for label, is_shown in zip(labels.tolist(), shows, strict=True):
        of_class = counts.setdefault(label, [0, 0])
        of_class[0] += 1
        of_class[1] += is_shown


class _Row(NamedTuple):
    """A sample, its mask, its class and its number in the data."""

    tensors: tuple[Tensor, ...]
    mask: Tensor | None
    label: int
    number: int


class DonorPool:
    """The first samples of each class, on the CPU; those that show what masks mark in the shares of `shares_lent`.

    Args:
        batches: (inputs, labels, masks) of the data, which are read until every one of `classes` has enough.
        classes: how many there may be.
        most: samples of all classes together; at least one of each.
    """

    def __init__(self, batches: Iterable[Batch], classes: int, most: int = MOST_DONORS) -> None:
        quota = max(1, most // max(1, classes))
        showing: dict[int, list[_Row]] = {}  # by class, samples that show what the masks mark, if there are masks
        others: dict[int, list[_Row]] = {}
        counts: dict[int, list[int]] = {}
        begin = 0
        for batch in batches:
            x, y, mask = batch[:3]
            tensors, self._rebuild = flatten(x)
            if mask is not None and place_of_mask(mask, x) != 0:
                raise InvalidInputError("masks of one input are taken, the first; got masks of others")
            inside = None if mask is None else mask_like(mask, tensors[0])
            shows = [True] * len(y) if inside is None else (inside != 0).flatten(1).any(1).tolist()
            count(counts, y, shows)
            for row, label in enumerate(y.tolist()):
                rows = (showing if shows[row] else others).setdefault(label, [])
                if len(rows) < quota:
                    parts = tuple(t[row].detach().cpu().clone() for t in tensors)
                    rows.append(
                        _Row(parts, None if inside is None else inside[row].detach().cpu().clone(), label, begin + row)
                    )
            begin += len(y)
            if len(showing) == classes and all(len(rows) == quota for rows in showing.values()):
                break
        lenders = balanced(showing, others, counts, quota)
        chosen = sorted((row for of_class in lenders.values() for row in of_class), key=lambda row: row.number)
        self.tensors = tuple(torch.stack(parts) for parts in zip(*(row.tensors for row in chosen), strict=True))
        self.labels = torch.tensor([row.label for row in chosen], device="cpu")
        self.numbers = torch.tensor([row.number for row in chosen], device="cpu")
        masks = [row.mask for row in chosen if row.mask is not None]
        self.masks = torch.stack(masks) if len(masks) == len(chosen) else None
        self.classes = sorted({row.label for row in chosen})

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

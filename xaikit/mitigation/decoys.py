"""Variants of samples for `assess`, with the shortcut kept, randomised, flipped or removed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import flatten
from xaikit.factors.exchange import exchanged, is_text, mask_like

Decoy = Callable[[Any, Any], Any]
KEPT, RANDOMISED, FLIPPED, REMOVED = "kept", "randomised", "flipped", "removed"
DONOR_SAMPLES = 512  # samples whose regions are lent, for all classes together


MAX_FLIPS = 40  # regions that every sample gets in turn
FLIPS_OF_CLASS = 4  # such regions of one class


class Flip(NamedTuple):
    """The name of a variant in which all samples have the region of one donor.

    Attributes:
        label: the donor's class.
        number: which of the donors of its class.
    """

    label: int
    number: int


def mirrored(labels: Tensor, classes: int) -> Tensor:
    """The class C - 1 - y; if that is y itself, the next class."""
    other = classes - 1 - labels
    return torch.where(other == labels, (labels + 1) % classes, other)


class Decoys:
    """The user's function (x, classes): it puts the shortcut of these classes into x, or with None removes it."""

    def __init__(self, decoy: Decoy, classes: int, seed: int) -> None:
        self._decoy, self._classes = decoy, classes
        self._generator = torch.Generator().manual_seed(seed)

    def variants(self, x: Any, y: Tensor, mask: Any) -> Iterator[tuple[str | Flip, Any]]:  # noqa: ARG002
        """Each with its name, the kept one first."""
        random = torch.randint(self._classes, y.shape, generator=self._generator).to(y.device)
        yield KEPT, self._decoy(x, y)
        yield RANDOMISED, self._decoy(x, random)
        yield FLIPPED, self._decoy(x, mirrored(y, self._classes))
        yield REMOVED, self._decoy(x, None)


class Named:
    """The user's functions (x, y) by the name of their variant; unchanged samples are the variant "kept"."""

    def __init__(self, decoys: Mapping[str, Decoy]) -> None:
        self._decoys = decoys

    def variants(self, x: Any, y: Tensor, mask: Any) -> Iterator[tuple[str | Flip, Any]]:  # noqa: ARG002
        """Each with its name, the kept one first."""
        yield KEPT, x
        for name, decoy in self._decoys.items():
            yield name, decoy(x, y)


class Regions:
    """The masked region is the shortcut; the variants take it from other samples, chosen by their class."""

    def __init__(self, samples: Iterator[tuple[Any, Tensor, Any]], classes: int, seed: int) -> None:
        self._classes, self._generator = classes, torch.Generator().manual_seed(seed)
        most = max(1, DONOR_SAMPLES // classes)
        donors: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for x, y, mask in samples:
            if mask is None:
                continue
            (tensor,) = _single(x)
            inside = mask_like(mask, tensor)
            for row, label in enumerate(y.tolist()):
                # A text without a masked token has none to lend.
                able = not is_text(tensor) or bool((inside[row] > 0.5).any())
                if able and len(donors.setdefault(label, [])) < most:
                    donors[label].append((tensor[row].detach().cpu().clone(), inside[row].detach().cpu().clone()))
            if len(donors) == classes and all(len(rows) == most for rows in donors.values()):
                break
        self._donors = dict(sorted(donors.items()))
        self._lent = self._choose_lent(torch.Generator().manual_seed(seed))

    def _choose_lent(self, generator: torch.Generator) -> list[tuple[int, int, Tensor, Tensor]]:
        """Some donors of every class, whose region each sample gets."""
        labels = list(self._donors)
        order = torch.randperm(len(labels), generator=generator).tolist()[:MAX_FLIPS]
        each = max(1, min(FLIPS_OF_CLASS, MAX_FLIPS // max(1, len(order))))
        lent = []
        for label in sorted(labels[i] for i in order):
            rows = torch.randperm(len(self._donors[label]), generator=generator).tolist()[:each]
            lent += [(label, number, *self._donors[label][row]) for number, row in enumerate(rows)]
        return lent

    def variants(self, x: Any, y: Tensor, mask: Any) -> Iterator[tuple[str | Flip, Any]]:
        """Each variant with its name, "kept" first; only "kept" if there is no mask."""
        yield KEPT, x
        if mask is None or len(self._donors) < 2:
            return
        (tensor,), rebuild = _single(x), flatten(x)[1]
        inside = mask_like(mask, tensor)
        present = torch.tensor(list(self._donors))
        random = present[torch.randint(len(present), y.shape, generator=self._generator)]
        other, donor_masks = (part.to(tensor.device) for part in self._choose_donors(random, present))
        yield RANDOMISED, rebuild((exchanged(tensor, inside, other, donor_masks),))
        for label, number, row, row_mask in self._lent:
            other, donor_masks = (part.to(tensor.device).expand_as(tensor) for part in (row, row_mask))
            yield Flip(label, number), rebuild((exchanged(tensor, inside, other, donor_masks),))
        removed = tensor - inside * tensor if tensor.is_floating_point() else tensor.masked_fill(inside > 0.5, 0)
        yield REMOVED, rebuild((removed,))

    def _choose_donors(self, classes: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """A random donor of each class, and its mask; if a class has no donor, the nearest class that has one."""
        chosen = []
        for label in classes.tolist():
            donors = self._donors[int(present[(present - label).abs().argmin()])]
            chosen.append(donors[int(torch.randint(len(donors), (), generator=self._generator))])
        rows, masks = zip(*chosen, strict=True)
        return torch.stack(rows), torch.stack(masks)


def _single(x: Any) -> tuple[Tensor, ...]:
    tensors = flatten(x)[0]
    if len(tensors) != 1:
        raise InvalidInputError(
            f"a masked region is taken from one tensor, the inputs have {len(tensors)}: say with decoy= what becomes "
            "of the shortcut"
        )
    return tensors


def decoys(
    decoy: Any, classes: int, seed: int, samples: Callable[[], Iterator[tuple[Any, Tensor, Any]]]
) -> Decoys | Named | Regions:
    """The maker of the variants, from the arguments of `assess`.

    Raises:
        InvalidTypeError: for a decoy that is neither a function nor functions by name.
    """
    if decoy is None:
        return Regions(samples(), classes, seed)
    if isinstance(decoy, Mapping) and all(callable(f) for f in decoy.values()):
        return Named(decoy)
    if not callable(decoy):
        raise InvalidTypeError(
            f"decoy must be a function (x, classes) or a dict of functions (x, y) by name, got {decoy!r}"
        )
    return Decoys(decoy, classes, seed)

"""Variants of samples for `assess`, with the shortcut kept, randomised, flipped or removed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.masks import leaves_of, place_of_mask
from xaikit.core.private_arguments import private_copy
from xaikit.core.structure import flatten
from xaikit.factors import DataFacts, Factor
from xaikit.factors.donors import balanced, count
from xaikit.factors.exchange import exchanged, is_text, mask_like
from xaikit.factors.facts import read_facts

Decoy = Callable[[Any, Any], Any]
KEPT, RANDOMISED, FLIPPED, REMOVED = "kept", "randomised", "flipped", "removed"
DONOR_SAMPLES = 512  # donors, for all classes together


MAX_FLIPS = 40  # donors' regions that every sample gets in turn
FLIPS_OF_CLASS = 4  # of these from one class


EXCHANGES = 2  # donors of each sample from other classes, and as many from its own class


class Exchange(NamedTuple):
    """The name of a variant in which each sample has the region of a donor of its own.

    Attributes:
        draw: number of the donor.
        same_class: whether it is of the sample's own class, else of another.
    """

    draw: int
    same_class: bool


class Flip(NamedTuple):
    """The name of a variant in which all samples have the region of one donor.

    Attributes:
        label: the donor's class.
        number: which of the donors of its class.
    """

    label: int
    number: int


Variant = str | Flip | Exchange


def mirrored(labels: Tensor, classes: int) -> Tensor:
    """The class C - 1 - y; if that is y itself, the next class."""
    other = classes - 1 - labels
    return torch.where(other == labels, (labels + 1) % classes, other)


class Lender(NamedTuple):
    """A sample that lends its shortcut.

    Attributes:
        x: the input that holds the shortcut.
        mask: of it, likewise.
        predicted: the class that the model predicts of the sample.
        shows: whether it shows the shortcut, a scalar.
    """

    x: Tensor
    mask: Tensor
    predicted: Tensor
    shows: Tensor


class Decoys:
    """The user's function (x, classes): it puts the shortcut of these classes into x, or with None removes it."""

    def __init__(self, decoy: Decoy, classes: int, seed: int) -> None:
        self._decoy, self._classes = decoy, classes
        self._generator = torch.Generator().manual_seed(seed)

    def variants(self, x: Any, y: Tensor, mask: Any) -> Iterator[tuple[Variant, Any]]:  # noqa: ARG002
        """Each with its name, the kept one first."""
        random = torch.randint(self._classes, y.shape, generator=self._generator, device="cpu").to(y.device)
        yield KEPT, self._decoy(*private_copy((x, y)))
        yield RANDOMISED, self._decoy(private_copy(x), random)
        yield FLIPPED, self._decoy(private_copy(x), mirrored(y, self._classes))
        yield REMOVED, self._decoy(private_copy(x), None)


class Named:
    """The user's functions (x, y) by the name of their variant; unchanged samples are the variant "kept"."""

    def __init__(self, decoys: Mapping[str, Decoy]) -> None:
        self._decoys = decoys

    def variants(self, x: Any, y: Tensor, mask: Any) -> Iterator[tuple[Variant, Any]]:  # noqa: ARG002
        """Each with its name, the kept one first."""
        yield KEPT, x
        for name, decoy in self._decoys.items():
            yield name, decoy(*private_copy((x, y)))


class Exchanges:
    """A masked region or a factor is the shortcut; the variants take it from other samples, chosen by their class.

    What is seldom shown is lent more often, see `shares_lent`.

    Attributes:
        donor_labels: by draw, the classes of the donors of another class, batch by batch.
        donor_predictions: the classes that the model predicts of the donors, batch by batch.
    """

    def __init__(  # noqa: PLR0913
        self,
        samples: Iterator[Batch],
        classes: int,
        seed: int,
        factor: Factor | None = None,
        facts: Any = None,
        *,
        predict: Callable[[Batch], Tensor],
    ) -> None:
        self._generator, self._factor = torch.Generator().manual_seed(seed), factor
        self._pairing = torch.Generator().manual_seed(seed)
        self.donor_labels: dict[int, list[Tensor]] = {}
        self.donor_predictions: dict[Exchange, list[Tensor]] = {}
        self._facts = facts
        self._donors = self._gather(samples, classes, predict)
        if factor is not None:
            rows = torch.stack([lender.x for lenders in self._donors.values() for lender in lenders])
            self._facts = read_facts(facts, rows)
            check_shown(factor, rows, self._facts)
        elif self._donors:
            highest = max(float(lender.mask.max()) for lenders in self._donors.values() for lender in lenders)
            is_partial = 0 < highest < 1 and next(iter(self._donors.values()))[0].x.is_floating_point()
            if is_partial:  # tokens are exchanged whole
                warnings.warn(
                    f"the masks of the shortcut reach {highest:.3g} at most, so it is exchanged in part only, and a "
                    "model that relies on it may seem not to; pass masks > 0 to exchange all that they mark",
                    stacklevel=3,
                )
        self._lent = self._choose_lent(torch.Generator().manual_seed(seed))

    def _gather(
        self, samples: Iterator[Batch], classes: int, predict: Callable[[Batch], Tensor]
    ) -> dict[int, list[Lender]]:
        """The first samples of each class that lend, in the shares of `shares_lent`."""
        most = max(1, DONOR_SAMPLES // classes)
        showing: dict[int, list[Lender]] = {}
        others: dict[int, list[Lender]] = {}
        counts: dict[int, list[int]] = {}
        self._first: dict[int, list[Lender]] = {}  # the first ones: how often a class shows it
        for batch in samples:
            x, y, mask = batch[:3]
            if mask is None and self._factor is None:
                continue
            tensor = self._changed_part(x, mask)[0]
            inside = torch.ones_like(tensor) if self._factor is not None else mask_like(mask, tensor)
            shows = (inside > 0.5 if is_text(tensor) else inside != 0).flatten(1).any(1)
            if self._factor is not None:
                self._facts = read_facts(self._facts, tensor)
                shows = self._factor.shows(tensor, self._facts)
            able, predicted = shows.tolist(), None
            count(counts, y, able)
            for row, label in enumerate(y.tolist()):
                lenders = (showing if able[row] else others).setdefault(label, [])
                first = self._first.setdefault(label, [])
                if len(lenders) < most:
                    predicted = predict(batch) if predicted is None else predicted
                    parts = (tensor[row], inside[row], predicted[row], shows[row])
                    lenders.append(Lender(*(part.detach().cpu().clone() for part in parts)))
                    first += lenders[-1:] if len(first) < most else []
            if len(showing) == classes and all(len(lenders) == most for lenders in showing.values()):
                break
        return balanced(showing, others, counts, most)

    def _choose_lent(self, generator: torch.Generator) -> list[tuple[int, int, Tensor, Tensor]]:
        """Some donors of every class, whose region each sample gets."""
        labels = list(self._donors)
        order = torch.randperm(len(labels), generator=generator, device="cpu").tolist()[:MAX_FLIPS]
        each = max(1, min(FLIPS_OF_CLASS, MAX_FLIPS // max(1, len(order))))
        flips = []
        for label in sorted(labels[i] for i in order):
            lenders = self._donors[label]
            rows = torch.randperm(len(lenders), generator=generator, device="cpu").tolist()
            # At least half of the donors show it, if there are enough that do.
            first = [row for row in rows if bool(lenders[row].shows)][: (each + 1) // 2]
            rows = [*first, *(row for row in rows if row not in first)]
            flips += [(label, number, *lenders[row][:2]) for number, row in enumerate(rows[:each])]
        return flips

    def variants(self, x: Any, y: Tensor, mask: Any) -> Iterator[tuple[Variant, Any]]:
        """Each variant with its name, "kept" first; only "kept" if there is no mask."""
        yield KEPT, x
        if (mask is None and self._factor is None) or len(self._donors) < 2:
            return
        tensor, rebuild = self._changed_part(x, mask)
        inside = torch.ones_like(tensor) if self._factor is not None else mask_like(mask, tensor)
        present = torch.tensor(list(self._donors), device="cpu")
        random = present[torch.randint(len(present), y.shape, generator=self._generator, device="cpu")]
        lenders = self._choose_donors(random, self._first, self._generator)
        other, donor_masks = (part.to(tensor.device) for part in lenders[:2])
        yield RANDOMISED, rebuild(self._exchanged(tensor, inside, other, donor_masks))
        for draw in range(EXCHANGES):
            labels = y.cpu()
            others = _other_classes(labels, present, self._pairing)
            self.donor_labels.setdefault(draw, []).append(others)
            for same_class, classes in ((False, others), (True, labels)):
                lenders = self._choose_donors(classes, self._donors, self._pairing)
                other, donor_masks = (part.to(tensor.device) for part in lenders[:2])
                self.donor_predictions.setdefault(Exchange(draw, same_class), []).append(lenders.predicted)
                yield Exchange(draw, same_class), rebuild(self._exchanged(tensor, inside, other, donor_masks))
        for label, number, row, row_mask in self._lent:
            other, donor_masks = (part.to(tensor.device).expand_as(tensor) for part in (row, row_mask))
            yield Flip(label, number), rebuild(self._exchanged(tensor, inside, other, donor_masks))
        if self._factor is None:
            removed = tensor - inside * tensor if tensor.is_floating_point() else tensor.masked_fill(inside > 0.5, 0)
            yield REMOVED, rebuild(removed)

    def _changed_part(self, x: Any, mask: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
        """The tensor that is changed, and what makes inputs of the changed one."""
        tensors, rebuild = flatten(x)
        if self._factor is None:
            _check_one_region(tensors, mask)
        # One mask beside several inputs, such as a text's ids and attention mask, is over one of them.
        place = (place_of_mask(mask, x) or 0) if self._factor is None else self._factor.place(tensors)
        return tensors[place], lambda changed: rebuild((*tensors[:place], changed, *tensors[place + 1 :]))

    def _exchanged(self, x: Tensor, mask: Tensor, donors: Tensor, donor_masks: Tensor) -> Tensor:
        if self._factor is None:
            return exchanged(x, mask, donors, donor_masks)
        changed: Tensor = self._factor.exchange(x, donors, facts=self._facts)
        return changed

    def _choose_donors(self, classes: Tensor, donors: dict[int, list[Lender]], generator: torch.Generator) -> Lender:
        """A random donor of each class; if a class has no donor, one of the nearest class that has one."""
        chosen, present = [], torch.tensor(list(self._donors), device="cpu")
        for label in classes.tolist():
            lenders = donors[int(present[(present - label).abs().argmin()])]
            chosen.append(lenders[int(torch.randint(len(lenders), (), generator=generator, device="cpu"))])
        return Lender(*map(torch.stack, zip(*chosen, strict=True)))


def _other_classes(labels: Tensor, present: Tensor, generator: torch.Generator) -> Tensor:
    """For each sample one of the present classes at random that is not its own, (N,)."""
    draws = torch.rand(len(labels), len(present), generator=generator, device="cpu")
    return present[draws.masked_fill(labels[:, None] == present, -1.0).argmax(1)]


def check_shown(factor: Factor, x: Tensor, facts: DataFacts, masks: Any = None) -> None:
    """Refuse a factor that no sample shows.

    Args:
        factor: the shortcut.
        x: samples of all classes.
        facts: what is known of them.
        masks: where the factor lies, if it is a region of each sample's own.

    Raises:
        InvalidInputError: where an exchange between samples changes none of them.
    """
    tolerance = 1e-4 * float(x.max() - x.min())  # exchanging equal values may change them by rounding
    for shift in (1, len(x) // 2, len(x) // 3):
        donor_masks = None if masks is None else masks.roll(shift, 0)
        changed = factor.exchange(x, x.roll(shift, 0), masks=masks, donor_masks=donor_masks, facts=facts)
        if float((changed - x).abs().max()) > (tolerance if x.is_floating_point() else 0):
            return
    raise InvalidInputError(
        f"no sample shows the factor {factor.title!r}: exchanged between {len(x)} samples it changes none; name "
        "another factor"
    )


def _check_one_region(tensors: tuple[Tensor, ...], mask: Any) -> None:
    if len(tensors) > 1 and len(leaves_of(mask)) > 1:
        raise InvalidInputError(
            f"a masked region is taken from one tensor, and there are masks of {len(leaves_of(mask))} inputs; pass one "
            "mask, which is over the first, or a dict of one, or say with assess(decoy=) what becomes of the shortcut"
        )


def decoys(  # noqa: PLR0913
    decoy: Any,
    classes: int,
    seed: int,
    samples: Callable[[], Iterator[Batch]],
    factor: Factor | None = None,
    facts: Any = None,
    *,
    predict: Callable[[Batch], Tensor],
) -> Decoys | Named | Exchanges:
    """What makes the variants, from what `assess` was given.

    Raises:
        InvalidTypeError: for a decoy that is neither a function nor functions by name.
    """
    if decoy is None:
        return Exchanges(samples(), classes, seed, factor, facts, predict=predict)
    if isinstance(decoy, Mapping) and all(callable(f) for f in decoy.values()):
        return Named(decoy)
    if not callable(decoy):
        raise InvalidTypeError(
            f"decoy must be a function (x, classes) or a dict of functions (x, y) by name, got {decoy!r}"
        )
    return Decoys(decoy, classes, seed)

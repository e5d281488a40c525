"""What `mend` works on: the shortcut as a user named it, the samples in memory, and those that are held out."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.batch import Batch, read_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.labels import read_classes
from xaikit.core.masks import place_of_mask
from xaikit.core.structure import flatten
from xaikit.factors import DataFacts, Factor, MaskedRegion, is_factor, read_factor
from xaikit.factors.exchange import mask_like
from xaikit.factors.facts import read_facts
from xaikit.mitigation.concepts import Concept
from xaikit.mitigation.decoys import check_shown
from xaikit.mitigation.groups import refuse_loader_order
from xaikit.mitigation.mend_groups import check_groups, group_list, split_rows
from xaikit.mitigation.mend_result import GROUPS_TITLE

REGION, FACTOR, CONCEPT, GROUPS = "region", "factor", "concept", "groups"


@dataclasses.dataclass(frozen=True, eq=False)
class Shortcut:
    """What must not matter.

    Attributes:
        factor: what is exchanged between samples; None for a concept, and where only groups are known.
        concept: a direction at a layer, in place of a factor.
        masks: where it lies, as the user gave them, for all of the data; None where the factor or the data say it.
    """

    factor: Factor | None = None
    concept: Concept | None = None
    masks: Any = None

    @property
    def kind(self) -> str:
        """Whether it is a region of masks, another factor, a concept, or only groups are known."""
        if self.concept is not None:
            return CONCEPT
        if self.factor is None:
            return GROUPS
        return REGION if isinstance(self.factor, MaskedRegion) else FACTOR

    @property
    def title(self) -> str:
        """Its name for people."""
        if self.factor is None:
            return GROUPS_TITLE if self.concept is None else "the concept"
        return "the masked region" if self.kind == REGION else f"the {self.factor.title}"


def read_shortcut(shortcut: Any, groups: Any = None) -> Shortcut:
    """The shortcut that a user named.

    Args:
        shortcut: a mask in any form that `Mitigator.fit` takes, a factor (a spec string or an object; several in a
            list), or a concept; None where groups are known.
        groups: as for `mend`.

    Raises:
        InvalidTypeError, UnknownNameError: for anything else.
        InvalidInputError: for a factor that stands for several.
    """
    if isinstance(shortcut, (list, tuple)) and not shortcut:
        shortcut = None
    if shortcut is None and groups is None:
        raise InvalidTypeError(
            "mend must be told the shortcut: a mask, a factor such as 'hue', or a Concept; see scan. None is for "
            "samples whose groups are known: groups="
        )
    if shortcut is None:
        return Shortcut()
    if isinstance(shortcut, Concept):
        return Shortcut(concept=shortcut)
    is_named = is_factor(shortcut)
    factor = read_factor(shortcut) if is_named else MaskedRegion()
    if factor.IS_FAMILY:
        raise InvalidInputError(f"the factor {factor.NAME!r} stands for several; name the one that scan finds")
    if isinstance(factor, MaskedRegion):
        return Shortcut(factor=MaskedRegion(), masks=factor.mask if is_named else shortcut)
    return Shortcut(factor=factor)


def gather(model: nn.Module, data: Any, masks: Any = None) -> Batch:
    """All samples of some data in memory, on the CPU, with classes as labels.

    Args:
        model: whose precision arrays get.
        data: in any form that `read_batches` takes.
        masks: for all of the data, in place of those in the data.

    Raises:
        InvalidInputError, InvalidTypeError: for data that cannot be right.
    """
    parts = [batch.to("cpu") for batch in read_batches(data, masks, model=model, what="shortcut_masks")]
    tensors = [flatten(part.inputs)[0] for part in parts]
    inputs = flatten(parts[0].inputs)[1](tuple(torch.cat(column).detach() for column in zip(*tensors, strict=True)))
    labels = torch.cat([read_classes(part.labels, part.size) for part in parts])
    if any(part.masks is None for part in parts):
        if not all(part.masks is None for part in parts):
            raise InvalidInputError("some batches have masks and others none; give empty masks where there is nothing")
        return Batch(inputs, labels)
    place = _place_of_masks(parts[0])
    marks = [_one_mask(part, place) for part in parts]
    return Batch(inputs, labels, torch.cat(marks))


def _place_of_masks(batch: Batch) -> int:
    """Which input the masks are about: the only one, or the first."""
    is_first = len(flatten(batch.inputs)[0]) == 1 or place_of_mask(batch.masks, batch.inputs) == 0
    return 0 if is_first else _refuse_several()


def _refuse_several() -> int:
    raise InvalidInputError("mend takes masks of one input, the first; got masks of others")


def _one_mask(batch: Batch, place: int) -> Tensor:
    return mask_like(batch.masks, flatten(batch.inputs)[0][place])


@dataclasses.dataclass(frozen=True, eq=False)
class MendData:
    """Samples to train on, samples held out, and what is known of both.

    Attributes:
        shortcut: what must not matter.
        training: inputs, labels, and masks of the region.
        held_out: likewise.
        facts: of the data, for the factor; None for a concept.
        place: which of several inputs the shortcut is in.
        groups: names of the groups of the samples to train on; None where they are not known.
        held_groups: of those held out.
    """

    shortcut: Shortcut
    training: Batch
    held_out: Batch
    facts: DataFacts | None
    place: int
    groups: list[Any] | None = None
    held_groups: list[Any] | None = None

    def exchanged(self, batch: Batch, donors: Tensor) -> Any:
        """The inputs of some samples with the shortcut of others.

        Args:
            batch: the samples.
            donors: their indices in the batch, (N,).
        """
        assert self.shortcut.factor is not None
        tensors, rebuild = flatten(batch.inputs)
        others = rebuild(tuple(t[donors] for t in tensors))
        masks = {"masks": batch.masks, "donor_masks": batch.masks[donors]} if self.shortcut.kind == REGION else {}
        return self.shortcut.factor.exchange(batch.inputs, others, facts=self.facts, **masks)

    def shown(self, batch: Batch) -> Tensor:
        """Which samples show the shortcut, bool (N,).

        Args:
            batch: the samples.
        """
        assert self.shortcut.factor is not None
        assert self.facts is not None
        if self.shortcut.kind == REGION:
            return (batch.masks != 0).flatten(1).any(1)
        return self.shortcut.factor.shows(flatten(batch.inputs)[0][self.place], self.facts)

    def judged(self, most: int, seed: int) -> Batch:
        """Some of the held-out samples, in their order.

        Args:
            most: how many at most.
            seed: of their choice.
        """
        if self.held_out.size <= most:
            return self.held_out
        drawn = torch.randperm(self.held_out.size, generator=torch.Generator().manual_seed(seed), device="cpu")[:most]
        return self.held_out.take(drawn.sort().values)


def read_data(  # noqa: PLR0913
    model: nn.Module,
    data: Any,
    shortcut: Shortcut,
    validation: Any,
    facts: Any,
    seed: int,
    *,
    groups: Any = None,
    validation_groups: Any = None,
) -> MendData:
    """The data of `mend`.

    Args:
        model: to be mended.
        data: samples to train on.
        shortcut: what must not matter.
        validation: held-out samples; None holds back a fifth of the data.
        facts: what is known of the data, for the factor: `DataFacts`, a dict of its fields, or None.
        seed: of the samples that are held back.
        groups: of the samples, as for `mend`.
        validation_groups: likewise.

    Raises:
        InvalidInputError, InvalidTypeError: for data that cannot be right, a factor of another kind of data, a shortcut
            that no sample shows.
    """
    refuse_loader_order(groups, data)
    refuse_loader_order(validation_groups, validation)
    training = gather(model, data, shortcut.masks)
    names, held_names = None if groups is None else group_list(groups, training), None
    if validation is None:
        rows, held_rows = split_rows(training.labels, names, seed)
        if names is not None:
            names, held_names = ([names[i] for i in part.tolist()] for part in (rows, held_rows))
        training, held_out = training.take(rows), training.take(held_rows)
    else:
        held_out = gather(model, validation, _masks_of_validation(shortcut, validation, training))
        if names is not None:
            held_names = group_list(groups if callable(groups) else validation_groups, held_out)
    if names is not None and held_names is not None:
        check_groups(names, held_names)
    _check_labels(training.labels, held_out.labels)
    if shortcut.kind in (CONCEPT, GROUPS):
        return MendData(shortcut, training, held_out, None, 0, names, held_names)
    assert shortcut.factor is not None
    if shortcut.kind == REGION and (training.masks is None or held_out.masks is None):
        which = "the data" if training.masks is None else "the validation samples"
        raise InvalidInputError(
            f"{which} have no masks, which say where the shortcut lies; pass (inputs, labels, masks), or a mask as the "
            "shortcut"
        )
    tensors = flatten(training.inputs)[0]
    place = 0 if shortcut.kind == REGION else shortcut.factor.place(tensors)
    data_facts = read_facts(facts, tensors[place])
    arranged = MendData(shortcut, training, held_out, data_facts, place, names, held_names)
    for part, name in ((training, "sample to train on"), (held_out, "held-out sample")):
        _check_shown(arranged, part, name)
    return arranged


def _masks_of_validation(shortcut: Shortcut, validation: Any, training: Batch) -> Any:
    """One mask for all serves the validation samples, too; masks by sample are those of the data alone."""
    if shortcut.masks is None or training.masks is None:
        return None
    first = training.masks[:1]
    same = bool((training.masks == first).all())
    has_masks = isinstance(validation, (tuple, list)) and len(validation) == 3
    if not same and not has_masks:
        raise InvalidInputError(
            "the masks differ from sample to sample, so the validation samples need their own: "
            "validation=(inputs, labels, masks)"
        )
    if has_masks:
        return None
    return first if first.ndim > 2 else first[0]  # (1, C, H, W); of a table or a text (F,)


def _check_labels(labels: Tensor, held_out: Tensor) -> None:
    held_remedy = "pass validation=(x, y) with samples of two classes"
    for part, name, remedy in (
        (labels, "samples to train on", "pass samples of two classes"),
        (held_out, "held-out samples", held_remedy),
    ):
        if len(classes := part.unique()) < 2:
            raise InvalidInputError(
                f"a shortcut is exchanged between classes, and all {name} are of class {int(classes[0])}; {remedy}"
            )
    unseen = sorted(set(held_out.tolist()) - set(labels.tolist()))
    if unseen:
        raise InvalidInputError(
            f"the class {unseen[0]} is among the held-out samples and in no sample to train on, so it cannot be "
            "learnt; take these samples out, or add some to the data"
        )


def _check_shown(data: MendData, batch: Batch, name: str) -> None:
    if data.shortcut.kind == REGION and not bool((batch.masks > 0).any()):
        raise InvalidInputError(f"no {name} shows the shortcut: its mask is empty everywhere")
    assert data.shortcut.factor is not None
    assert data.facts is not None
    masks = batch.masks if data.shortcut.kind == REGION else None
    try:
        check_shown(data.shortcut.factor, flatten(batch.inputs)[0][data.place], data.facts, masks)
    except InvalidInputError as err:
        if "no sample shows" not in str(err):
            raise
        raise InvalidInputError(
            f"no {name} shows the shortcut: {data.shortcut.title} is the same in all, so nothing can be exchanged"
        ) from None

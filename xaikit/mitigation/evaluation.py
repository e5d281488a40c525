"""Accuracy of a model over all samples and in each group; the data are read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.batch import Batch, read_batches
from xaikit.core.errors import InvalidInputError
from xaikit.core.labels import read_classes
from xaikit.mitigation.forward import class_logits, evaluating
from xaikit.mitigation.groups import groups_of_function, read_group_names, refuse_loader_order
from xaikit.mitigation.penalties import check_labels


def class_batches(model: nn.Module, data: Any, masks: Any = None) -> Iterator[Batch]:
    """Batches of samples whose labels are classes.

    Args:
        model: whose precision arrays get.
        data: as for `read_batches`, in an order that does not change.
        masks: for all of the data, one for each sample or one for all; in place of those inside the data.

    Raises:
        InvalidTypeError, InvalidInputError: for data that cannot be right; labels that are no classes.
    """
    for batch in read_batches(data, masks, model=model, what="shortcut_masks"):
        yield batch._replace(labels=read_classes(batch.labels, batch.size))


def check_read_twice(data: Any, reader: str) -> None:
    """Refuse an iterator, whose samples are gone after the first reading.

    Args:
        data: of the user.
        reader: what reads them, for the message.

    Raises:
        InvalidInputError: for an iterator.
    """
    if isinstance(data, Iterator):
        raise InvalidInputError(
            f"{reader} reads the data several times, and a {type(data).__name__} can be read once; pass the loader "
            "itself, or list(data)"
        )


def group_names(groups: Any, x: Any, y: Tensor, begin: int) -> list[Any]:
    """The group of each sample of a batch that begins at sample `begin`: the class where no groups are given.

    Args:
        groups: None, one name or number for each sample of the data, or a function (x, y) -> as many as y.
        x: the batch's inputs.
        y: its labels.
        begin: number of the first sample.

    Raises:
        InvalidInputError: for another number of groups.
    """
    if groups is None:
        return y.tolist()
    if callable(groups):
        return groups_of_function(groups, x, y, len(y))
    return read_group_names(groups[begin : begin + len(y)], len(y), begin=begin)


def by_group(right: Tensor, groups: list[Any]) -> dict[Any, float]:
    """The share of right samples in each group, in the order of their names."""
    numbers: dict[Any, int] = {}
    members = torch.tensor([numbers.setdefault(name, len(numbers)) for name in groups], device="cpu")
    shares = (torch.bincount(members, weights=right.double()) / torch.bincount(members)).tolist()
    return {name: shares[numbers[name]] for name in sorted(numbers, key=lambda name: (str(type(name)), name))}


def accuracies(model: nn.Module, data: Any, groups: Any = None, head: str | int = "logits") -> dict[Any, float]:
    """Accuracy in each group; under the key None over all samples.

    Raises:
        InvalidTypeError, InvalidInputError: for data or groups that cannot be right.
    """
    refuse_loader_order(groups, data)
    right: list[Tensor] = []
    names: list[Any] = []
    with evaluating(model) as device:
        for batch in class_batches(model, data):
            x, y = batch.to(device)[:2]
            names += group_names(groups, x, y, len(names))
            logits = class_logits(model, x, head)
            right.append((logits.argmax(1) == check_labels(y, logits)).cpu())
    check_all_used(groups, len(names))
    hits = torch.cat(right)
    return {None: hits.double().mean().item(), **by_group(hits, names)}


def check_all_used(groups: Any, n: int) -> None:
    """Refuse groups for another number of samples than the data has.

    Raises:
        InvalidInputError: for another number of groups than samples.
    """
    if groups is not None and not callable(groups) and len(groups) != n:
        raise InvalidInputError(f"groups must name one for each of the {n} samples, got {len(groups)}")

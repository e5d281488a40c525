"""How right a model is, over all samples and in each group of them; the data are read batch by batch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import check_batch, flatten
from xaikit.core.targets import pick_head
from xaikit.mitigation.batches import to_device
from xaikit.mitigation.masks import check_mask, label_tensor

ROWS = 256  # samples in a pass, for data given as tensors


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[torch.device]:
    """Evaluation mode, no gradients; every module's own flag after. Gives the model's device."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        for module, _ in flags:
            module.training = False
        with torch.no_grad():
            yield next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    finally:
        for module, training in flags:
            module.training = training


def batches(data: Any, masks: Any = None, rows: int = ROWS) -> Iterator[tuple[Any, Tensor, Any]]:
    """Batches (x, y, mask or None) of tensors (x, y), (x, y, masks), or of an iterable of such batches.

    Args:
        data: the samples in an order that does not change.
        masks: for all of the data, one for each sample or one for all; in place of those inside the data.
        rows: samples in a batch, for data given as tensors.

    Raises:
        InvalidTypeError, InvalidInputError: for data that cannot be right.
    """
    mask = None if masks is None else check_mask(masks)
    seen, each = 0, False
    for x, y, own in _pieces(data, rows):
        n = check_batch(flatten(x)[0])
        labels = label_tensor(y)
        if labels.shape != (n,):
            raise InvalidInputError(f"labels must have shape ({n},), got {tuple(labels.shape)}")
        if labels.is_floating_point():
            raise InvalidInputError(f"accuracy counts classes, got labels of {labels.dtype}; a regression has none")
        if mask is not None:
            each = not _for_all(mask, flatten(x)[0][0])
            if each and seen + n > len(mask):
                raise InvalidInputError(f"masks must be for as many samples as the data have, got {len(mask)}, too few")
            yield x, labels, mask[seen : seen + n] if each else mask
        else:
            yield x, labels, own
        seen += n
    if seen == 0:
        raise InvalidInputError("the data gave no batch")
    if mask is not None and each and len(mask) != seen:
        raise InvalidInputError(f"masks must be for the {seen} samples of the data, got {len(mask)}")


def logits_on(model: nn.Module, x: Any, head: str | int) -> Tensor:
    """The model's logits (N, C).

    Raises:
        InvalidInputError: for an output of another shape.
    """
    from xaikit.mitigation.base import run_model

    logits = pick_head(run_model(model, x), head)
    if logits.ndim != 2:
        raise InvalidInputError(
            f"the model must return logits (N, classes), got {tuple(logits.shape)}; name the output with head="
        )
    return logits


def number_of_batches(data: Any) -> int | None:
    """How many `batches` gives, where that is known."""
    try:
        return math.ceil(len(data[1]) / ROWS) if _in_memory(data) else len(data)
    except TypeError:
        return None


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
    found = groups(x, y) if callable(groups) else groups[begin : begin + len(y)]
    found = found.tolist() if hasattr(found, "tolist") else list(found)
    if len(found) != len(y):
        raise InvalidInputError(f"groups must name one for each of the {begin + len(y)} samples or more, fewer came")
    return found


def by_group(right: Tensor, groups: list[Any]) -> dict[Any, float]:
    """The share of right samples in each group, in the order of their names."""
    members: dict[Any, list[int]] = {}
    for row, name in enumerate(groups):
        members.setdefault(name, []).append(row)
    order = sorted(members, key=lambda name: (str(type(name)), name))
    return {name: right[members[name]].double().mean().item() for name in order}


def accuracies(model: nn.Module, data: Any, groups: Any = None, head: str | int = "logits") -> dict[Any, float]:
    """Accuracy in each group; under the key None over all samples.

    Raises:
        InvalidTypeError, InvalidInputError: for data or groups that cannot be right.
    """
    right: list[Tensor] = []
    names: list[Any] = []
    with evaluating(model) as device:
        for x, y, _ in batches(data):
            names += group_names(groups, x, y, len(names))
            right.append(logits_on(model, to_device(x, device), head).argmax(1).cpu() == y.cpu())
    check_all_used(groups, len(names))
    hits = torch.cat(right)
    return {None: hits.double().mean().item(), **by_group(hits, names)}


def check_all_used(groups: Any, n: int) -> None:
    """Groups for more samples than there are belong to other data.

    Raises:
        InvalidInputError: for another number of groups than samples.
    """
    if groups is not None and not callable(groups) and len(groups) != n:
        raise InvalidInputError(f"groups must name one for each of the {n} samples, got {len(groups)}")


def _pieces(data: Any, rows: int) -> Iterator[tuple[Any, Any, Any]]:
    if _in_memory(data):
        x, y, *rest = data
        tensors, rebuild = flatten(x)
        n, mask = check_batch(tensors), [check_mask(m) for m in rest]
        labels = label_tensor(y)
        if labels.shape != (n,):
            raise InvalidInputError(f"labels must have shape ({n},), got {tuple(labels.shape)}")
        for begin in range(0, n, rows):
            part = slice(begin, begin + rows)
            own = next((m if _for_all(m, tensors[0]) else m[part] for m in mask), None)
            yield rebuild(tuple(t[part] for t in tensors)), labels[part], own
        return
    if isinstance(data, Tensor) or not isinstance(data, Iterable):
        raise InvalidTypeError(
            f"the data must be tensors (x, y) or an iterable of batches (x, y), got {type(data).__name__}"
        )
    for batch in data:
        if not isinstance(batch, (tuple, list)) or len(batch) not in (2, 3):
            raise InvalidTypeError("a batch must be (inputs, labels) or (inputs, labels, masks)")
        yield batch[0], batch[1], batch[2] if len(batch) == 3 else None


def _in_memory(data: Any) -> bool:
    """Whether the data are the samples themselves, and no batches of them."""
    return isinstance(data, (tuple, list)) and len(data) in (2, 3) and not isinstance(data[0], (tuple, list))


def _for_all(mask: Tensor, x: Tensor) -> bool:
    """Whether a mask is one map for all samples."""
    return mask.ndim <= max(1, x.ndim - 2) or (mask.ndim == x.ndim and len(mask) == 1)

"""Batch: inputs, labels and masks of some samples; how tensors, loaders, lists and data sets become batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from xaikit.core.arrays import is_array, to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.inputs import read_inputs
from xaikit.core.labels import REMEDY, read_labels
from xaikit.core.mask_supply import MaskSupply
from xaikit.core.masks import WHAT, in_order_of_columns, leaves_of, map_leaves, read_masks, take_masks
from xaikit.core.structure import Tensors, check_batch, flatten
from xaikit.core.target_values import whole
from xaikit.core.targets import target_value

LABELS = ("labels", "label")  # their names in a dict that holds inputs, too
ROWS = 256  # samples in a pass, for data in memory
FORMS = (
    "data must be (inputs, labels) or (inputs, labels, masks), a loader or a list of such batches, or a data set of "
    "such samples"
)


class Batch(NamedTuple):
    """Some samples.

    Attributes:
        inputs: a tensor (N, ...), or a tuple, list or dict of them.
        labels: (N,); or, where an explainer's targets are meant, also a class for all, a target, a function, or None.
        masks: as `read_masks` gives them; None where there are none.
        groups: of the samples, for the training losses that go by groups; an object with `take` and `to`.
    """

    inputs: Any
    labels: Any
    masks: Any = None
    groups: Any = None

    @property
    def size(self) -> int:
        """Number of samples."""
        return len(flatten(self.inputs)[0][0])

    @property
    def tensors(self) -> Tensors:
        """Inputs, labels and masks, those that are tensors."""
        labels = (self.labels,) if isinstance(self.labels, Tensor) else ()
        return (*flatten(self.inputs)[0], *labels, *leaves_of(self.masks))

    def take(self, rows: Sequence[int] | Tensor) -> Batch:
        """Some of the samples.

        Args:
            rows: their indices.
        """
        tensors, rebuild = flatten(self.inputs)
        chosen = rows.long() if isinstance(rows, Tensor) else torch.tensor(rows, dtype=torch.long, device="cpu")
        per_sample = isinstance(self.labels, Tensor) and self.labels.ndim > 0
        labels = self.labels[chosen.to(self.labels.device)] if per_sample else self.labels
        inputs = rebuild(tuple(t[chosen.to(t.device)] for t in tensors))
        groups = None if self.groups is None else self.groups.take(chosen)
        return Batch(inputs, labels, take_masks(self.masks, self.inputs, chosen), groups)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on a device.

        Args:
            device: such as "cuda".
        """
        tensors, rebuild = flatten(self.inputs)
        labels = self.labels.to(device) if isinstance(self.labels, Tensor) else self.labels
        masks = map_leaves(self.masks, lambda mask: mask.to(device))
        groups = None if self.groups is None else self.groups.to(device)
        return Batch(rebuild(tuple(t.to(device) for t in tensors)), labels, masks, groups)


def read_batch(  # noqa: PLR0913
    item: Any,
    model: nn.Module | None = None,
    *,
    masks: str = WHAT,
    by_class: bool = False,
    targets: bool = False,
    check: bool = True,
    move: bool = False,
    free_labels: bool = False,
) -> Batch:
    """One batch, its inputs, labels and masks read.

    Args:
        item: (inputs, labels) or (inputs, labels, masks), each in any form that `read_inputs`, `read_labels` and
            `read_masks` take; or a dict of inputs with the labels among them, as `parts_by_name` takes it.
        model: whose precision and device arrays get.
        masks: name of the masks in messages.
        by_class: there is one mask for each class instead of one for each sample.
        targets: the second item is an explainer's target: it may also be a class for all, a target (an object, its
            spec string or dict), a function or None.
        check: whether the inputs must be finite.
        move: put arrays on the model's device; else they stay on the CPU.
        free_labels: the labels are for a loss of the user's: any numbers, (N, ...).

    Raises:
        InvalidTypeError: for anything else, and as the readers raise.
        InvalidInputError: for an empty batch, and as the readers raise.
    """
    groups = item.groups if isinstance(item, Batch) else None
    item = item[:3] if isinstance(item, Batch) else parts_by_name(item, masks)
    if not isinstance(item, (tuple, list)) or len(item) not in (2, 3):
        size = f" of {len(item)}" if isinstance(item, (tuple, list)) else ""
        raise InvalidTypeError(
            f"a batch must be (inputs, labels) or (inputs, labels, masks), got {type(item).__name__}{size}"
        )
    inputs = read_inputs(item[0], model, move=move)
    tensors = flatten(inputs)[0]
    n = check_batch(tensors) if check else _sample_count(tensors)
    target = target_value(item[1]) if targets else None
    labels = item[1] if target is None else target
    if targets and (isinstance(labels, np.integer) or (isinstance(labels, Tensor) and labels.ndim == 0)):
        labels = whole(labels, "the class of all samples")
    open_target = labels is None or isinstance(labels, int) or is_whole_batch_target(labels)
    if free_labels:
        labels = _rows_of_labels(labels, n)
    elif not (targets and open_target):
        labels = read_labels(labels, n)
    batch_masks = in_order_of_columns(item[2], item[0], masks) if len(item) == 3 else None
    read = read_masks(batch_masks, inputs, what=masks, labels=labels if by_class else None)
    return Batch(inputs, labels, read, groups)


def holds_labels(item: Any) -> bool:
    """Whether a batch or a sample is a dict of inputs that holds its labels.

    Args:
        item: of the user.
    """
    return isinstance(item, Mapping) and any(name in item for name in LABELS)


def parts_by_name(item: Any, masks: str = WHAT) -> Any:
    """A dict of inputs that holds its labels, as loaders of Hugging Face give it, as (inputs, labels); others as is.

    Args:
        item: a batch or a sample; the labels stand under "labels" or "label", masks under their name, if at all.
        masks: this name.

    Raises:
        InvalidTypeError: for a dict without labels.
    """
    if not isinstance(item, Mapping):
        return item
    name = next((name for name in LABELS if name in item), None)
    if name is None:
        raise InvalidTypeError(
            f"a batch in one dict must hold its labels under 'labels' or 'label', got {', '.join(map(str, item))}; or "
            "pass (inputs, labels)"
        )
    inputs = {key: value for key, value in item.items() if key not in (name, masks)}
    return (inputs, item[name], item[masks]) if masks in item else (inputs, item[name])


def read_batches(
    data: Any,
    masks: Any = None,
    *,
    model: nn.Module | None = None,
    rows: int | None = ROWS,
    what: str = WHAT,
    targets: bool = False,
) -> Iterator[Batch]:
    """The batches of data, one after the other; nothing is kept.

    Args:
        data: (inputs, labels) or (inputs, labels, masks); a loader, a list or another iterable of such batches; or a
            data set of samples (x, label) or (x, label, mask), whose mask may be None.
        masks: for all of the data, one for each sample or one for all, in place of those in the data.
        model: whose precision and device arrays get.
        rows: samples in a batch, for data in memory and for data sets; None leaves data in memory whole.
        what: name of `masks` in messages.
        targets: as for `read_batch`.

    Raises:
        InvalidTypeError: for data of other forms.
        InvalidInputError: where there is no batch, or one cannot be right; for one mask for each sample beside a
            loader that shuffles.
    """
    if isinstance(data, Dataset):
        data = dataset_loader(data, rows or ROWS)
    data = parts_by_name(data, what) if holds_labels(data) else data
    if is_batch(data):
        batch = read_batch(data if masks is None else (data[0], data[1], masks), model, masks=what, targets=targets)
        yield from _cut(batch, rows)
        return
    if not isinstance(data, Iterable) or isinstance(data, (Tensor, str, Mapping)) or is_array(data):
        size = f" of {len(data)}" if isinstance(data, (tuple, list)) else ""
        raise InvalidTypeError(f"{FORMS}, got {type(data).__name__}{size}")
    refuse_samples(data, targets=targets)
    supply = MaskSupply(masks, data, what)
    count = 0
    for item in data:
        batch = read_batch(item, model, masks=what, targets=targets)
        yield batch if masks is None else batch._replace(masks=supply.next(batch.inputs))
        count += 1
    if not count:
        raise InvalidInputError("data holds no batch")
    supply.finish()


def count_batches(data: Any, rows: int | None = ROWS) -> int | None:
    """The number of batches that `read_batches` gives; None if it is unknown.

    Args:
        data: as for `read_batches`.
        rows: likewise.
    """
    data = parts_by_name(data) if holds_labels(data) else data
    try:
        if is_batch(data):
            tensors = flatten(read_inputs(data[0]))[0]
            return 1 if rows is None else max(1, math.ceil(len(tensors[0]) / rows))
        length = len(data)
        return math.ceil(length / (rows or ROWS)) if isinstance(data, Dataset) else length
    except (TypeError, ValueError):  # no length; if the data are wrong, reading them raises
        return None


def is_whole_batch_target(labels: Any) -> bool:
    """Whether labels are a target of a batch as a whole, a function or an object, instead of a row for each sample.

    Args:
        labels: of a batch.
    """
    return not isinstance(labels, Tensor) and (callable(labels) or hasattr(labels, "looks_at_all_heads"))


def is_batch(data: Any) -> bool:
    """Whether a tuple or list is a batch itself, rather than holding some.

    A list of batches begins with a tuple, a list or a dict. A batch may begin so, too; then the second item decides: in
    a batch it holds the labels, which are numbers; in a list of batches it is a batch.
    """
    if isinstance(data, Batch):
        return True
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3):
        return False
    if is_array(data[0]):
        return True
    second = data[1]
    if isinstance(second, (tuple, list)) and any(is_array(item) or isinstance(item, Mapping) for item in second):
        return False
    nested = isinstance(second, (tuple, list)) and len(second) in (2, 3) and isinstance(second[0], (tuple, list))
    return not (nested and isinstance(data, list))


def refuse_samples(data: Any, *, targets: bool = False) -> None:
    """Raise for a list of single samples: read as batches, the first axis of a sample would count as samples.

    Single samples have one number as label. Batches may have that, too, where explainers' targets are meant: one class
    for all. So items of one shape with several classes are taken for samples there.

    Args:
        data: no batch itself.
        targets: whether a batch may have one class for all.

    Raises:
        InvalidInputError: for such a list.
    """
    if not isinstance(data, (list, tuple)) or not data:
        return
    items = [parts_by_name(item) if holds_labels(item) else item for item in data]
    if any(not isinstance(item, (tuple, list)) or len(item) not in (2, 3) for item in items):
        return
    labels, numbers = [item[1] for item in items], (int, float, np.number, np.ndarray, Tensor)
    if not all(isinstance(label, numbers) and not np.ndim(label) for label in labels):
        return
    shapes = {getattr(item[0], "shape", None) for item in items}
    if not targets or (len({float(label) for label in labels}) > 1 and len(shapes) == 1):
        batches = "; of batches with a class each, give a label for each sample" if targets else ""
        raise InvalidInputError(
            "a list must hold batches, and this one holds single samples (x, label); pass "
            f"torch.utils.data.DataLoader(data, batch_size=64){batches}"
        )


def dataset_loader(dataset: Any, batch_size: int, *, shuffle: bool = False, **options: Any) -> DataLoader[Any]:
    """A loader over a data set whose samples are (x, label) or (x, label, mask); masks may be None.

    Args:
        dataset: with samples by index, or an `IterableDataset`.
        batch_size: samples in a batch.
        shuffle: whether each pass has an order of its own.
        options: further ones of the loader.
    """
    order: Any = None if isinstance(dataset, IterableDataset) else shuffle
    return DataLoader(dataset, batch_size=batch_size, shuffle=order, collate_fn=collate, **options)


def collate(samples: list[Any]) -> Any:
    """A batch of samples (x, label), (x, label, mask) or dicts; masks become a list, since some may be None.

    Args:
        samples: of a data set.
    """
    if all(isinstance(s, Mapping) for s in samples):
        return {name: _collated([s[name] for s in samples]) for name in samples[0]}
    if any(not isinstance(s, (tuple, list)) or len(s) not in (2, 3) for s in samples):
        raise InvalidTypeError(
            f"a data set must give samples (x, label) or (x, label, mask), got {type(samples[0]).__name__}"
        )
    inputs, labels = default_collate([s[0] for s in samples]), default_collate([s[1] for s in samples])
    masks = [s[2] if len(s) == 3 else None for s in samples]
    return (inputs, labels, masks) if any(len(s) == 3 for s in samples) else (inputs, labels)


def _collated(values: list[Any]) -> Any:
    """Values of samples as a batch of them; a list where some are None, as masks may be."""
    return values if any(value is None for value in values) else default_collate(values)


def _rows_of_labels(labels: Any, n: int) -> Tensor:
    tensor = to_tensor(labels, "labels", remedy=REMEDY)
    if not tensor.ndim or len(tensor) != n:
        raise InvalidInputError(f"labels must have a row for each of {n} samples, got shape {tuple(tensor.shape)}")
    return tensor


def _cut(batch: Batch, rows: int | None) -> Iterator[Batch]:
    n = batch.size
    if rows is None or n <= rows:
        yield batch
        return
    for begin in range(0, n, rows):
        yield batch.take(torch.arange(begin, min(begin + rows, n), device="cpu"))


def _sample_count(tensors: tuple[Tensor, ...]) -> int:
    if not tensors[0].ndim or not len(tensors[0]):
        raise InvalidInputError("a batch must hold at least one sample, got none")
    return len(tensors[0])

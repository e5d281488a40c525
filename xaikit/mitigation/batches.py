"""The data of a training as steps: batches in an order that can be repeated, cut into parts, and taken up midway.

Nothing is put on a device here: a step's batch is moved when its turn comes.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import check_batch, flatten
from xaikit.mitigation.masks import check_mask, label_tensor, per_sample

Batch = tuple[Any, Any, Any]


class Step(NamedTuple):
    """What one process trains on in one step."""

    batch: Batch
    samples: list[Any] | None = None  # indices in the data; None where the data have none
    borrowed: bool = False  # a sample of another process's part, which must not count: there was none left


class Part(NamedTuple):
    """Which part of every batch is this process's."""

    rank: int = 0
    world: int = 1

    def of(self, rows: Sequence[Any]) -> tuple[list[Any], bool]:
        """A contiguous share of the rows, sizes as equal as can be; the first row, borrowed, where there is none."""
        begin, end = (len(rows) * (self.rank + k) // self.world for k in (0, 1))
        return (list(rows[begin:end]), False) if end > begin else (list(rows[:1]), True)


class Tensors:
    """Inputs, labels and masks in memory, shuffled in every epoch."""

    def __init__(self, data: Any, labels: Any, masks: Any, size: int) -> None:
        tensors = flatten(data)[0]
        n = check_batch(tensors)
        targets = label_tensor(labels)
        if targets.shape != (n,):
            raise InvalidInputError(
                f"labels must have shape ({n},), one class for each input, got {tuple(targets.shape)}"
            )
        mask = check_mask(masks)
        self._each = per_sample(mask, tensors[0])
        self._data, self.labels, self._mask, self._size, self._n = data, targets, mask, size, n
        self.steps: int | None = len(in_batches(torch.arange(n), size))
        self.generators: list[torch.Generator] = []

    def epoch(self, number: int, skip: int, part: Part) -> Iterator[Step]:  # noqa: ARG002
        """The steps of one pass, in an order drawn now."""
        order = in_batches(torch.randperm(self._n), self._size)
        return (self._step(rows, part) for rows in order[skip:])

    def first(self) -> Batch:
        """One sample."""
        return self._rows(torch.tensor([0]))

    @property
    def single(self) -> Batch | None:
        """One sample, where a step holds no more than one."""
        return self.first() if min(self._n, self._size) == 1 else None

    def _step(self, rows: Tensor, part: Part) -> Step:
        if part.world == 1:
            return Step(self._rows(rows), rows.tolist())
        own, borrowed = part.of(rows.tolist())
        return Step(self._rows(torch.tensor(own)), own, borrowed)

    def _rows(self, rows: Tensor) -> Batch:
        tensors, rebuild = flatten(self._data)  # here, since a function inside would not travel to another process
        x = rebuild(tuple(t[rows.to(t.device)] for t in tensors))
        mask = self._mask[rows.to(self._mask.device)] if self._each else self._mask
        return x, self.labels[rows.to(self.labels.device)], mask


class Loader:
    """A DataLoader, read through a sampler of ours: it can skip batches unread and knows the samples of each."""

    def __init__(self, loader: DataLoader, prepare: Callable[[Any], Batch]) -> None:
        self._prepare = prepare
        self._indices = _Indices(loader.batch_sampler)
        kept = "num_workers collate_fn pin_memory timeout worker_init_fn multiprocessing_context generator"
        settings = {name: getattr(loader, name) for name in (*kept.split(), "persistent_workers")}
        if loader.num_workers:
            settings["prefetch_factor"] = loader.prefetch_factor
        self._given = loader
        self._loader = DataLoader(loader.dataset, batch_sampler=self._indices, **settings)
        self.steps: int | None = _length(loader)
        holders = (loader, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
        found = {id(g): g for h in holders if (g := getattr(h, "generator", None)) is not None}
        self.generators = list(found.values())

    def epoch(self, number: int, skip: int, part: Part) -> Iterator[Step]:  # noqa: ARG002
        """The steps of one pass; those to skip are not read, except by workers, whose random state depends on it."""
        self._indices.begin(part)
        iterator = iter(self._loader)
        if self._loader.num_workers:
            _drop(iterator, skip)
            collections.deque(self._indices.pop() for _ in range(skip))
        else:
            self._indices.skip(skip)
        return (Step(self._prepare(batch), *self._indices.pop()) for batch in iterator)

    @property
    def single(self) -> Batch | None:
        """One sample, where a step holds no more than one."""
        given = self._given
        size = given.batch_size
        if size is None or not isinstance(given.dataset, Sized):
            return None
        left = 0 if given.drop_last else len(given.dataset) % size
        with torch.random.fork_rng():
            return self._prepare(given.collate_fn([given.dataset[0]])) if 1 in (size, left) else None


class Batches:
    """Any iterable of batches. Its batches are cut into parts, unless each process has an iterable of its own."""

    def __init__(self, data: Iterable[Any], prepare: Callable[[Any], Batch], *, distributed: bool) -> None:
        self._data, self._prepare, self._distributed = data, prepare, distributed
        self.steps = _length(data)
        self.generators: list[torch.Generator] = []
        self.single: Batch | None = None

    def epoch(self, number: int, skip: int, part: Part) -> Iterator[Step]:
        """The steps of one pass; those to skip are read and dropped."""
        sampler = getattr(self._data, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(number)
        iterator = iter(self._data)
        _drop(iterator, skip)
        return (self._step(self._prepare(batch), part) for batch in iterator)

    def _step(self, batch: Batch, part: Part) -> Step:
        if part.world == 1 or self._distributed:
            return Step(batch)
        rows, borrowed = part.of(range(batch_size(batch)))
        return Step(take(batch, rows), None, borrowed)


Source = Tensors | Loader | Batches


def source(data: Any, labels: Any, masks: Any, size: int, prepare: Callable[[Any], Batch]) -> Source:
    """The data that `Mitigator.fit` was given; `prepare` makes (x, y, mask) of a batch of an iterable.

    Raises:
        InvalidInputError, InvalidTypeError: for data that cannot be right.
    """
    if labels is None and masks is None and not isinstance(data, Tensor):
        if not isinstance(data, Iterable):
            raise InvalidTypeError(
                f"fit takes inputs, labels and masks, or an iterable of batches, got {type(data).__name__}"
            )
        distributed = isinstance(getattr(data, "sampler", None), DistributedSampler)
        # A subclass may iterate in a way of its own.
        ours = type(data) is DataLoader and data.batch_sampler is not None and not distributed
        if ours and not isinstance(data.dataset, IterableDataset):  # type: ignore[attr-defined]
            return Loader(data, prepare)  # type: ignore[arg-type]
        return Batches(data, prepare, distributed=distributed)
    if labels is None or masks is None:
        raise InvalidInputError("fit needs labels and masks beside the inputs: fit(model, images, labels, masks)")
    return Tensors(data, labels, masks, size)


class _Indices:
    """A batch sampler that remembers what it handed out; one pass at a time."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self.begin(Part())

    def __len__(self) -> int:
        return len(self._batches)

    def begin(self, part: Part) -> None:
        self._part, self._drawn = part, collections.deque[tuple[list[Any], bool]]()

    def __iter__(self) -> Iterator[list[Any]]:
        # Not a generator itself: `skip` needs the batches before the first is asked for.
        self._live = iter(self._batches)
        return self._hand_out()

    def _hand_out(self) -> Iterator[list[Any]]:
        for rows in self._live:
            own, borrowed = self._part.of(rows)
            self._drawn.append((own, borrowed))
            yield own

    def skip(self, count: int) -> None:
        """Pass over the next batches of the pass that a loader has begun."""
        _drop(self._live, count)

    def pop(self) -> tuple[list[Any], bool]:
        """The rows of the batch that the loader gave last."""
        return self._drawn.popleft()


def batch_size(batch: Batch) -> int:
    """The number of samples."""
    return len(flatten(batch[0])[0][0])


def take(batch: Batch, rows: Sequence[int]) -> Batch:
    """Some samples of a batch; a mask for all samples stays whole."""
    x, y, mask = batch
    tensors, rebuild = flatten(x)
    chosen = torch.tensor(list(rows))
    return (
        rebuild(tuple(t[chosen.to(t.device)] for t in tensors)),
        label_tensor(y)[chosen.to(label_tensor(y).device)],
        _each_leaf(mask, lambda m: _mask_rows(m, tensors[0], chosen.to(m.device))),
    )


def to_device(value: Any, device: torch.device) -> Any:
    """Every tensor of a structure on the device."""
    return _each_leaf(value, lambda t: t.to(device))


def _each_leaf(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {k: _each_leaf(v, change) for k, v in value.items()}
    return type(value)(_each_leaf(v, change) for v in value) if type(value) in (tuple, list) else value


def _mask_rows(mask: Tensor, x: Tensor, rows: Tensor) -> Tensor:
    if x.is_floating_point() and mask.ndim == x.ndim + 1 and mask.shape[1] == len(x):
        return mask[:, rows]  # several masks, each for every sample
    try:
        return mask[rows] if per_sample(mask, x) else mask
    except InvalidInputError:
        return mask  # whoever uses it says what is wrong


def in_batches(order: Tensor, size: int) -> list[Tensor]:
    """Batches of `size`; a last batch of one joins the one before, since BatchNorm cannot train on a single sample."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1 and size > 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _drop(iterator: Iterator[Any], count: int) -> None:
    collections.deque(itertools.islice(iterator, count), maxlen=0)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:  # an IterableDataset has a loader with __len__ and no length
        return None

"""The data of a training as steps: batches in an order that can be repeated, cut into parts, and resumed midway.

Nothing is put on a device here: a step's batch is moved when its turn comes.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset, TensorDataset

from xaikit.core.arrays import is_array
from xaikit.core.batch import FORMS, Batch, dataset_loader, holds_labels, is_batch, parts_by_name, refuse_samples
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.mask_supply import MaskSupply
from xaikit.core.masks import leaves_of, marked
from xaikit.core.structure import flatten
from xaikit.mitigation.fingerprints import attribute_hash, hash_of, held_tensors
from xaikit.mitigation.reader import IndexedMasks, Reader


class TrainingStep(NamedTuple):
    """The samples that one process trains on in one step.

    Attributes:
        batch: its samples.
        samples: their indices in the data; None where the data have none.
        is_padding: whether they only repeat samples of another process, since there were too few; they do not count.
    """

    batch: Batch
    samples: list[Any] | None = None
    is_padding: bool = False


class ProcessRank(NamedTuple):
    """The number of this process among several."""

    rank: int = 0
    world_size: int = 1

    def part_of(self, rows: Sequence[Any]) -> tuple[list[Any], bool]:
        """This process's contiguous part of the rows, sizes as equal as can be, and whether it is padding.

        Args:
            rows: of the whole batch. Where there are fewer than processes, some get the first row as padding.
        """
        begin, end = (len(rows) * (self.rank + k) // self.world_size for k in (0, 1))
        return (list(rows[begin:end]), False) if end > begin else (list(rows[:1]), True)


class Source(Protocol):
    """Where the steps of a training come from.

    Attributes:
        steps: in one epoch; None where that is unknown.
        generators: of random numbers that the user gave to the loader or its sampler.
        running: what a training changes from step to step beside the weights, with `state` and `load_state`; or None.
    """

    steps: int | None
    generators: list[torch.Generator]
    running: Any

    def epoch(self, number: int, skip: int, process: ProcessRank) -> Iterator[TrainingStep]:
        """The steps of one pass over the data, without the first `skip`."""

    @property
    def single(self) -> Batch | None:
        """One sample, where a step holds no more than one."""

    def fingerprint(self) -> dict[str, str]:
        """Hashes and sizes by which these data are recognised; empty if nothing is known without reading them."""


class InMemorySource:
    """Inputs, labels and masks in memory, shuffled in every epoch.

    Args:
        batch: all samples.
        size: samples in a step.
    """

    running: Any = None

    def __init__(self, batch: Batch, size: int) -> None:
        self.samples, self.batch_size, self._n = batch, size, batch.size
        self.steps: int | None = len(in_batches(torch.arange(self._n, device="cpu"), size))
        self.generators: list[torch.Generator] = []

    def epoch(self, number: int, skip: int, process: ProcessRank) -> Iterator[TrainingStep]:  # noqa: ARG002
        """The steps of one pass, in an order drawn now."""
        order = in_batches(self._order(), self.batch_size)
        return (self._step(rows, process) for rows in order[skip:])

    def _order(self) -> Tensor:
        return torch.randperm(self._n, device="cpu")

    def first(self) -> Batch:
        """One sample."""
        return self.samples.take([0])

    @property
    def single(self) -> Batch | None:
        """One sample, where a step holds no more than one."""
        return self.first() if min(self._n, self.batch_size) == 1 else None

    def fingerprint(self) -> dict[str, str]:
        """Hashes of the inputs, the labels and the masks, and the number of samples."""
        leaves = tuple(marked(mask) for mask in leaves_of(self.samples.masks))
        parts = {"inputs": flatten(self.samples.inputs)[0], "labels": (self.samples.labels,), "masks": leaves}
        return {"samples": str(self._n), **{name: hash_of(tensors) for name, tensors in parts.items()}}

    def _step(self, rows: Tensor, process: ProcessRank) -> TrainingStep:
        if process.world_size == 1:
            return TrainingStep(self.samples.take(rows), rows.tolist())
        part, is_padding = process.part_of(rows.tolist())
        return TrainingStep(self.samples.take(part), part, is_padding)


class LoaderSource:
    """A DataLoader, read through a sampler of ours: it can skip batches unread and knows the samples of each.

    Args:
        loader: the user's.
        reader: of its batches.
    """

    running: Any = None

    def __init__(self, loader: DataLoader[Any], reader: Reader) -> None:
        self.reader = reader
        self._indices = _Indices(loader.batch_sampler)
        names = "num_workers collate_fn pin_memory timeout worker_init_fn multiprocessing_context generator"
        settings = {name: getattr(loader, name) for name in (*names.split(), "persistent_workers")}
        if loader.num_workers:
            settings["prefetch_factor"] = loader.prefetch_factor
        self.original = loader
        self._loader = DataLoader(loader.dataset, batch_sampler=self._indices, **settings)
        self._masks = IndexedMasks(reader, loader.dataset)
        self.steps: int | None = _length(loader)
        holders = (loader, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
        generators = {id(g): g for h in holders if (g := getattr(h, "generator", None)) is not None}
        self.generators = list(generators.values())

    def epoch(self, number: int, skip: int, process: ProcessRank) -> Iterator[TrainingStep]:  # noqa: ARG002
        """The steps of one pass; those to skip are not read, except by workers, whose random state depends on it."""
        self._indices.begin(process)
        iterator = iter(self._loader)
        if self._loader.num_workers:
            _drop(iterator, skip)
            collections.deque(self._indices.pop() for _ in range(skip))
        else:
            self._indices.skip(skip)
        return (self._step(item) for item in iterator)

    def _step(self, item: Any) -> TrainingStep:
        rows, is_padding = self._indices.pop()
        return TrainingStep(self._masks.put(self.reader(item), rows), rows, is_padding)

    @property
    def single(self) -> Batch | None:
        """One sample, where a step holds no more than one."""
        loader = self.original
        size = loader.batch_size
        if size is None or not isinstance(loader.dataset, Sized):
            return None
        remainder = 0 if loader.drop_last else len(loader.dataset) % size
        if 1 not in (size, remainder):
            return None
        with torch.random.fork_rng():
            return self._masks.put(self.reader(loader.collate_fn([loader.dataset[0]])), [0])

    def fingerprint(self) -> dict[str, str]:
        """The number of samples, and a hash of what is in memory; to read others would draw random numbers.

        Of a data set of samples the attributes count: tensors, arrays, data frames, and lists of names, paths and
        numbers such as `samples` of torchvision's folders. Its attribute `content_hash` is a hash of its own.
        """
        data = self.original.dataset
        samples = data.dataset if isinstance(data, Subset) else data
        tensors = held_tensors(samples.tensors if isinstance(samples, TensorDataset) else samples)
        if tensors and isinstance(data, Subset):
            tensors.append(torch.as_tensor(list(data.indices), device="cpu"))
        return {
            **({"samples": str(len(data))} if isinstance(data, Sized) else {}),
            **({"tensors": hash_of(tensors)} if tensors else {}),
            **({} if tensors else attribute_hash(samples)),
        }


class IterableSource:
    """Any iterable of batches. Its batches are split among the processes, unless each has an iterable of its own.

    Args:
        data: the iterable.
        reader: of its batches.
    """

    running: Any = None

    def __init__(self, data: Iterable[Any], reader: Reader) -> None:
        self._data, self._reader = data, reader
        self._distributed = isinstance(getattr(data, "sampler", None), DistributedSampler)
        self.steps = _length(data)
        self.generators: list[torch.Generator] = []
        self.single: Batch | None = None

    def epoch(self, number: int, skip: int, process: ProcessRank) -> Iterator[TrainingStep]:
        """The steps of one pass; those to skip are read and dropped."""
        sampler = getattr(self._data, "sampler", None)
        if isinstance(sampler, DistributedSampler):
            sampler.set_epoch(number)
        masks = self._reader.sample_masks
        supply = None if masks is None else MaskSupply(masks, self._data, self._reader.what)
        steps = self._steps(iter(self._data), supply, process)
        _drop(steps, skip)  # at once and not lazily, since reading may draw random numbers
        return steps

    def _steps(self, items: Iterator[Any], supply: MaskSupply | None, process: ProcessRank) -> Iterator[TrainingStep]:
        for item in items:
            batch = self._reader(item)
            yield self._step(batch if supply is None else batch._replace(masks=supply.next(batch.inputs)), process)
        if supply is not None:
            supply.finish()

    def fingerprint(self) -> dict[str, str]:
        """A hash of the tensors of a list; empty for any other iterable, which is not read in advance."""
        tensors = held_tensors(self._data)
        return {"tensors": hash_of(tensors)} if tensors else {}

    def _step(self, batch: Batch, process: ProcessRank) -> TrainingStep:
        if process.world_size == 1 or self._distributed:
            return TrainingStep(batch)
        rows, is_padding = process.part_of(range(batch.size))
        return TrainingStep(batch.take(rows), None, is_padding)


def training_source(data: Any, labels: Any, size: int, reader: Reader) -> Source:
    """The data that `Mitigator.fit` was given.

    Args:
        data: inputs, beside `labels`; (inputs, labels) or (inputs, labels, masks); a loader or another iterable of such
            batches; a data set of samples (x, label) or (x, label, mask).
        labels: of the inputs; None where the data hold them.
        size: samples in a step, for data in memory and for data sets.
        reader: of the batches; it holds the masks for all of the data.

    Raises:
        InvalidInputError, InvalidTypeError: for data that cannot be right.
    """
    if labels is not None:
        return _in_memory((data, labels), size, reader)
    data = parts_by_name(data, reader.what) if holds_labels(data) else data
    if is_batch(data):
        return _in_memory(data, size, reader)
    if isinstance(data, Dataset):
        data = dataset_loader(data, size, shuffle=True)
    if isinstance(data, (str, Tensor, Mapping)) or is_array(data) or not isinstance(data, Iterable):
        if isinstance(data, Tensor) or is_array(data):
            raise InvalidInputError("fit needs labels and masks beside the inputs: fit(model, images, labels, masks)")
        raise InvalidTypeError(f"fit takes inputs, labels and masks, or {FORMS.partition('must be ')[2]}, got {data!r}")
    refuse_samples(data)
    distributed = isinstance(getattr(data, "sampler", None), DistributedSampler)
    # A subclass may iterate in a way of its own.
    is_plain = type(data) is DataLoader and data.batch_sampler is not None and not distributed
    if is_plain and not isinstance(data.dataset, IterableDataset):  # type: ignore[attr-defined]
        return LoaderSource(data, reader)  # type: ignore[arg-type]
    return IterableSource(data, reader)


def _in_memory(item: Any, size: int, reader: Reader) -> InMemorySource:
    if reader.masks is not None:
        item = (item[0], item[1], reader.masks)
    return InMemorySource(dataclasses.replace(reader, masks=None, check=True)(item), size)


class _Indices:
    """A batch sampler that remembers what it handed out; one pass at a time."""

    def __init__(self, batches: Any) -> None:
        self._batches = batches
        self.begin(ProcessRank())

    def __len__(self) -> int:
        return len(self._batches)

    def begin(self, process: ProcessRank) -> None:
        self._process, self._drawn = process, collections.deque[tuple[list[Any], bool]]()

    def __iter__(self) -> Iterator[list[Any]]:
        # Not a generator itself: `skip` needs the batches before the first is asked for.
        self._remaining = iter(self._batches)
        return self._hand_out()

    def _hand_out(self) -> Iterator[list[Any]]:
        for rows in self._remaining:
            part, is_padding = self._process.part_of(rows)
            self._drawn.append((part, is_padding))
            yield part

    def skip(self, count: int) -> None:
        """Pass over the next batches of the pass that a loader has begun."""
        _drop(self._remaining, count)

    def pop(self) -> tuple[list[Any], bool]:
        """The rows of the batch that the loader gave last."""
        return self._drawn.popleft()


def in_batches(order: Tensor, size: int) -> list[Tensor]:
    """Batches of `size`; a last batch of one joins the one before, since BatchNorm cannot train on a single sample.

    Args:
        order: indices of the samples.
        size: samples in a batch.
    """
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

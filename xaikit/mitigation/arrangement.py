"""The data of a training arranged by what is known of its samples: with their groups, or drawn with other chances."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, WeightedRandomSampler

from xaikit.core.batch import Batch
from xaikit.mitigation.groups import GroupReader
from xaikit.mitigation.sources import InMemorySource, LoaderSource, ProcessRank, Source, TrainingStep

ROWS = 256  # samples that are read at a time


class GroupedSource:
    """The steps of another source, each batch with the groups of its samples.

    Args:
        source: of the steps.
        groups: (N,) names, a function (x, y) -> (N,), or None for the classes.
    """

    def __init__(self, source: Source, groups: Any) -> None:
        self._source = source
        self._reader = GroupReader(groups, sample_count(source))
        self.steps, self.generators, self.running = source.steps, source.generators, self._reader.weights

    def epoch(self, number: int, skip: int, process: ProcessRank) -> Iterator[TrainingStep]:
        """The steps of one pass."""
        steps = self._source.epoch(number, skip, process)
        return (step._replace(batch=self._reader.put(step.batch, step.samples)) for step in steps)

    @property
    def single(self) -> Batch | None:
        """One sample, where a step holds no more than one."""
        return self._source.single

    def fingerprint(self) -> dict[str, str]:
        """That of the source."""
        return self._source.fingerprint()


class GroupedMemory(InMemorySource):
    """Samples in memory with their groups; see `GroupedSource`."""

    def __init__(self, source: InMemorySource, groups: Any) -> None:
        reader = GroupReader(groups, source.samples.size)
        super().__init__(reader.put(source.samples, list(range(source.samples.size))), source.batch_size)
        self.running = reader.weights


class DrawnMemory(InMemorySource):
    """Samples in memory, each drawn with a chance of its own, with replacement: as many as there are in an epoch."""

    def __init__(self, source: InMemorySource, chances: Tensor) -> None:
        super().__init__(source.samples, source.batch_size)
        self._chances = chances

    def _order(self) -> Tensor:
        return torch.multinomial(self._chances, len(self._chances), replacement=True)


def grouped(source: Source, groups: Any) -> Source:
    """The source with the groups of its samples.

    Args:
        source: of the steps.
        groups: (N,) names, a function (x, y) -> (N,), or None for the classes.

    Raises:
        InvalidInputError, InvalidTypeError: for groups that cannot be right.
    """
    return GroupedMemory(source, groups) if isinstance(source, InMemorySource) else GroupedSource(source, groups)


def sample_count(source: Source) -> int | None:
    """Samples of a source that can be looked up by number; None for an iterable of batches."""
    if isinstance(source, InMemorySource):
        return source.samples.size
    return len(source.original.dataset) if isinstance(source, LoaderSource) else None  # type: ignore[arg-type]


def in_order(source: Source) -> Iterator[tuple[Batch, list[int]]]:
    """All samples once, in their order, with their numbers.

    Args:
        source: whose samples can be looked up by number; see `sample_count`.
    """
    n = sample_count(source) or 0
    if isinstance(source, InMemorySource):
        for part in torch.arange(n, device="cpu").split(ROWS):
            yield source.samples.take(part), part.tolist()
    elif isinstance(source, LoaderSource):
        loader = source.original
        plain = DataLoader(loader.dataset, ROWS, collate_fn=loader.collate_fn, sampler=SequentialSampler(range(n)))
        begin = 0
        for item in plain:
            batch = source.reader(item)
            yield batch, list(range(begin, begin + batch.size))
            begin += batch.size


def drawn(source: Source, chances: Tensor) -> Source:
    """The source with each sample drawn with a chance of its own, with replacement.

    Args:
        source: whose samples can be looked up by number; see `sample_count`.
        chances: of the samples, (N,); they need not add up to 1.
    """
    if isinstance(source, InMemorySource):
        return DrawnMemory(source, chances)
    assert isinstance(source, LoaderSource)
    loader = source.original
    sampler = WeightedRandomSampler(chances.tolist(), len(chances), generator=loader.generator)
    size: Any = loader.batch_size or getattr(loader.batch_sampler, "batch_size", 1)
    names = "num_workers collate_fn pin_memory timeout worker_init_fn multiprocessing_context generator"
    settings = {name: getattr(loader, name) for name in names.split()}
    batches = BatchSampler(sampler, size, drop_last=loader.drop_last)
    return LoaderSource(DataLoader(loader.dataset, batch_sampler=batches, **settings), source.reader)

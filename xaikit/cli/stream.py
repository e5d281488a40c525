"""The samples of a data set, batch by batch, with their masks; samples that cannot be read are left out and counted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import typer
from torch import Tensor
from torch.utils.data import DataLoader

from xaikit.cli.masks import AnyMasks
from xaikit.cli.printing import printable
from xaikit.core import Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import flatten
from xaikit.mitigation.sources import in_batches
from xaikit.runs.shards import concatenated
from xaikit.runs.source import SampleBatch, SampleSource

SHOWN = 10  # unreadable samples that are named


@dataclasses.dataclass(frozen=True)
class MaskedBatch:
    """Some samples.

    Attributes:
        inputs: as the model takes them, (n, ...).
        labels: class of each, (n,), or None.
        indices: of the samples in the data, (n,).
        masks: one for each sample, or None.
    """

    inputs: Any
    labels: Tensor | None
    indices: Tensor
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)


class Stream:
    """Samples of a data set, one batch in memory at a time.

    Args:
        data: as `explain_dataset` takes it.
        masks: one map for all samples, or one for each sample of the data.
        batch_size: samples in a batch.
        limit: most samples, evenly spread over the data; 0: all.

    Attributes:
        total: samples in the data.
        skipped: why samples could not be read, by index; it fills while they are read.
        content_hash: of the samples, by which a checkpoint knows them again; empty where nobody set it.
    """

    def __init__(self, data: Any, masks: AnyMasks | None = None, *, batch_size: int = 32, limit: int = 0) -> None:
        self._size, limit = Int(ge=1).check(batch_size, "--batch-size"), Int(ge=0).check(limit, "--limit")
        self._source, self._masks = SampleSource(data, self._size), masks
        self.total = self._source.n
        few = limit and limit < self.total
        self._chosen: Sequence[int] = [i * self.total // limit for i in range(limit)] if few else range(self.total)
        self.skipped: dict[int, str] = {}
        self.content_hash = ""
        self._shape: tuple[Any, ...] | None = None

    def __len__(self) -> int:
        return len(self._chosen)

    @property
    def read(self) -> list[int]:
        """The indices in the data of the samples that could be read, in their order."""
        return [i for i in self._chosen if i not in self.skipped]

    @property
    def first(self) -> Any:
        """The inputs of the first sample that can be read, as a batch of one."""
        return self._source.first()[0]

    def __iter__(self) -> Iterator[MaskedBatch]:
        empty = True
        for part in self._source.batches(self._chosen):
            self.skipped |= part.skipped
            if part.inputs is not None:
                empty = False
                yield self._finished(part)
        if empty:
            raise InvalidInputError(f"none of the {len(self)} samples can be read: {next(iter(self.skipped.values()))}")

    def map(self, function: Callable[[MaskedBatch], Any]) -> Mapped:
        """An iterable of what a function returns for each batch."""
        return Mapped(self, function)

    def whole(self) -> MaskedBatch:
        """All samples in one batch."""
        parts = list(self)
        labels = None if parts[0].labels is None else [p.labels for p in parts]
        masks = None if parts[0].masks is None else [p.masks for p in parts]
        return MaskedBatch(
            concatenated([p.inputs for p in parts]),
            concatenated(labels) if labels else None,
            torch.cat([p.indices for p in parts]),
            concatenated(masks) if masks else None,
        )

    def only(self, indices: Tensor) -> Stream:
        """The samples with these indices in the data."""
        other = Stream.__new__(Stream)
        other.__dict__ |= self.__dict__
        other._chosen = indices.tolist()
        return other

    def training(self, size: int) -> DataLoader[Any]:
        """Batches (x, y, mask) in an order drawn for each epoch, as `Mitigator.fit` draws it for data in memory."""
        # A separate generator: the loader must not draw from the one for the order and the noise.
        loader = self._source.loader(_Shuffled(self._chosen, size), self._triple, generator=torch.Generator())
        if self.content_hash:
            loader.dataset.content_hash = self.content_hash  # type: ignore[attr-defined]
        return loader

    def _triple(self, part: SampleBatch) -> tuple[Any, ...]:
        if part.skipped:  # it could be read a moment ago
            raise InvalidInputError(next(iter(part.skipped.values())))
        return triple(self._finished(part))

    def _finished(self, part: SampleBatch) -> MaskedBatch:
        tensors = flatten(part.inputs)[0]
        shape = tuple(tuple(t.shape[1:]) for t in tensors)
        if self._shape not in (None, shape):
            shapes = " and ".join(", ".join(map(str, one)) for one in (self._shape, shape) if one)
            raise InvalidInputError(
                f"the samples have several shapes ({shapes}); bring them to one size, images with --size"
            )
        self._shape = shape
        masks = None if self._masks is None else self._masks.of(part.indices, tensors[0], self.total, part.labels)
        return MaskedBatch(part.inputs, part.labels, part.indices, masks)


@dataclasses.dataclass(frozen=True)
class Mapped:
    """An iterable of the results of a function for each batch of a stream; it can be iterated several times."""

    stream: Stream
    function: Callable[[MaskedBatch], Any]

    def __len__(self) -> int:
        return math.ceil(len(self.stream) / self.stream._size)

    def __iter__(self) -> Iterator[Any]:
        return map(self.function, self.stream)


class _Shuffled:
    """The order of an epoch, cut into batches."""

    def __init__(self, indices: Sequence[int], size: int) -> None:
        self._indices, self._size = torch.as_tensor(indices), size

    def __len__(self) -> int:
        return len(in_batches(self._indices, self._size))

    def __iter__(self) -> Iterator[list[int]]:
        order = in_batches(torch.randperm(len(self._indices)), self._size)
        return iter([self._indices[rows].tolist() for rows in order])


def triple(batch: MaskedBatch) -> tuple[Any, Any, Any]:
    """A batch as the mitigators take it."""
    return batch.inputs, batch.labels, batch.masks


def tell_skipped(*streams: Stream) -> int:
    """Print a line for each of the first samples that could not be read, and their number; return the number."""
    skipped = {(id(s.skipped), i): reason for s in streams for i, reason in s.skipped.items()}
    for reason in list(skipped.values())[:SHOWN]:
        typer.echo(f"xaikit: skipped: {printable(reason)}", err=True)
    if skipped:
        typer.echo(f"xaikit: note: {len(skipped)} of {streams[0].total} samples were skipped", err=True)
    return len(skipped)

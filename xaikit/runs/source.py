"""The samples of a data set by index, in batches and shards; those that cannot be read are left out."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from xaikit.core.arrays import is_array, model_float_type, to_tensor
from xaikit.core.batch import holds_labels, is_batch, parts_by_name
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.inputs import read_inputs
from xaikit.core.labels import read_labels
from xaikit.core.loader_order import order_of_its_own
from xaikit.core.structure import flatten
from xaikit.files.pictures import Preparation
from xaikit.runs.manifest import tensor_hash

BATCH_SIZE = 32
SHARD_BYTES, SHARD_MOST = 2**25, 128  # 32 MiB of attributions: what a kill can lose, and what memory holds


class UnreadableSampleError(InvalidInputError):
    """Raised by a data set for a sample that cannot be read; a run notes it and goes on."""


@dataclasses.dataclass(frozen=True)
class SampleBatch:
    """One batch.

    Attributes:
        indices: of the samples, (n,).
        inputs: as the explainer takes them; None where every sample was unreadable.
        labels: (n,) or None.
        skipped: reasons of unreadable samples by index.
        shard: number of the shard that it belongs to.
        last: whether it is the last batch of its shard.
    """

    indices: Tensor
    inputs: Any
    labels: Tensor | None
    skipped: dict[int, str]
    shard: int = 0
    last: bool = True


class SampleSource:
    """The samples of a data set by index: read batch by batch, in order, with those that cannot be read left out.

    Args:
        data: a map-style `Dataset` of x or (x, label), a `DataLoader` over one without shuffling, inputs, or
            (inputs, labels).
        batch_size: samples in a pass; None takes the loader's, else 32.
        model: whose precision numpy arrays get; None takes torch's default.

    Attributes:
        names: of the samples, where the data has any.
        fingerprint: hash of a sample's file or row by its index, where the data has such a function.
        labels: of all samples, where they are known before a sample is read: in memory, or as the `labels` of data
            that has fingerprints.
        display_names: "classes" and "features", as the data calls them; "tokenizer", what reads its tokens;
            "preparation", the size and the crop of its pictures, as JSON.
    """

    def __init__(self, data: Any, batch_size: int | None = None, model: nn.Module | None = None) -> None:
        loader = data if isinstance(data, DataLoader) else None
        dataset = _dataset(data, model)
        self.n = len(dataset)
        if self.n == 0:
            raise InvalidInputError("data holds no sample")
        self.names: Sequence[str] = tuple(map(str, getattr(dataset, "names", ())))
        if self.names and len(self.names) != self.n:
            raise InvalidInputError(f"data.names must name each of the {self.n} samples, got {len(self.names)}")
        self.fingerprint: Callable[[int], Any] | None = getattr(dataset, "fingerprint", None)
        labels = getattr(dataset, "labels", None) if hasattr(dataset, "fingerprint") else None
        labels = dataset.known_labels if isinstance(dataset, InMemorySamples) else labels
        self.labels: Sequence[Any] | None = labels if labels is not None and len(labels) == self.n else None
        self.display_names = _column_names(data) | _display_names(dataset)
        self.batch_size = batch_size or (loader and loader.batch_size) or BATCH_SIZE
        self._indexed = _Indexed(dataset, model_float_type(model)[0])
        self._options: dict[str, Any] = {"num_workers": loader.num_workers} if loader else {}
        collate = default_collate if loader is None else loader.collate_fn
        self._collate = _Collate(collate)

    def first(self) -> tuple[Any, Tensor | None]:
        """The first sample that can be read, as a batch of one: (inputs, labels)."""
        for i in range(self.n):
            _, item, _ = self._collate([self._indexed[i]])
            if item is not None:
                return _pair(item)
        raise InvalidInputError("none of the samples can be read")

    def row_hash(self, index: int) -> str:
        """The hash of one sample, see `sample_hash`; empty where it cannot be read."""
        _, item, _ = self._collate([self._indexed[index]])
        return "" if item is None else sample_hash(*_pair(item))

    def parts(self, shards: Iterable[int], size: int) -> Iterator[SampleBatch]:
        """The batches of some shards of `size` samples each, none of them across two shards."""
        plan = _Plan(list(shards), size, self.n, self.batch_size)
        for rows, part in zip(plan, self.loader(plan), strict=True):
            last = (rows[-1] + 1) % size == 0 or rows[-1] + 1 == self.n
            yield dataclasses.replace(part, shard=rows[0] // size, last=last)

    def batches(self, indices: Sequence[int]) -> Iterator[SampleBatch]:
        """Some samples, in the order of their indices as given."""
        return iter(self.loader(_Rows(indices, self.batch_size)))

    def loader(
        self, plan: Iterable[list[int]], finish: Callable[[SampleBatch], Any] | None = None, **options: Any
    ) -> DataLoader[Any]:
        """A loader of the batches that a plan lists; `finish` is applied to each of them."""
        dataset: Any = self._indexed
        options = {**self._options, **options}
        return DataLoader(dataset, batch_sampler=plan, collate_fn=_Parts(self._collate, finish), **options)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class _Plan:
    """The batches of some shards, made one by one, so that a large data set needs no long list."""

    shards: list[int]
    size: int
    n: int
    batch_size: int

    def __iter__(self) -> Iterator[list[int]]:
        for shard in self.shards:
            end = min((shard + 1) * self.size, self.n)
            for start in range(shard * self.size, end, self.batch_size):
                yield list(range(start, min(start + self.batch_size, end)))


@dataclasses.dataclass(frozen=True)
class _Rows:
    """The batches of some samples."""

    indices: Sequence[int]
    size: int

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.indices), self.size):
            yield [int(i) for i in self.indices[start : start + self.size]]


def _display_names(dataset: Any) -> dict[str, Any]:
    """What a data set calls its classes and columns, what reads its tokens, and how its pictures were cut."""
    names: dict[str, Any] = {}
    for key in ("classes", "features"):
        values = getattr(dataset, key, ())
        if isinstance(values, (list, tuple)) and values and all(isinstance(value, str) for value in values):
            names[key] = list(values)
    preparation = getattr(getattr(dataset, "pictures", None), "preparation", None)
    if isinstance(preparation, Preparation):  # by which regions on a picture come to what the model saw of it
        names["preparation"] = json.dumps({"size": preparation.size, "crop": preparation.crop})
    tokenizer = getattr(dataset, "tokenizer", "")
    return {**names, "tokenizer": tokenizer} if isinstance(tokenizer, str) and tokenizer else names


def _column_names(data: Any) -> dict[str, Any]:
    """The names of a DataFrame's columns."""
    inputs = data[0] if isinstance(data, (tuple, list)) and len(data) else data
    columns = getattr(inputs, "columns", None)
    return {"features": [str(name) for name in columns]} if columns is not None and hasattr(inputs, "to_numpy") else {}


def _dataset(data: Any, model: nn.Module | None) -> Any:
    """Samples by index: a data set as it is, a loader's data set, or what is in memory."""
    if isinstance(data, DataLoader):
        if order := order_of_its_own(data):
            raise InvalidInputError(
                f"a run needs the samples in the same order each time, and {order}; pass a loader without shuffle"
            )
        data = data.dataset
    if isinstance(data, IterableDataset):
        raise InvalidTypeError(
            "a run resumes by index, so data must be a map-style Dataset with a length; an IterableDataset has none"
        )
    if isinstance(data, Dataset):
        if not hasattr(data, "__len__"):
            raise InvalidTypeError(f"data must have a length, and {type(data).__name__} has no __len__")
        return data
    if _is_inputs(data):
        return InMemorySamples(data, None, model)
    if isinstance(data, (tuple, list)) and len(data) == 2 and is_batch(data):
        return InMemorySamples(data[0], data[1], model)
    if isinstance(data, (tuple, list)) and len(data) == 1 and _is_inputs(data[0]):
        return InMemorySamples(data[0], None, model)
    if isinstance(data, (tuple, list)) and len(data) > 2 and all(map(is_array, data)):
        raise InvalidInputError(f"data in memory is (inputs, labels), got {len(data)} arrays")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, str):
        return data
    raise InvalidTypeError(
        f"data must be a Dataset, a DataLoader, inputs, or (inputs, labels), got {type(data).__name__}"
    )


def _is_inputs(data: Any) -> bool:
    """Whether data are inputs alone: an array, a mapping of arrays, or a nested list of numbers."""
    if is_array(data) or isinstance(data, Mapping):
        return True
    first = data[0] if isinstance(data, list) and data else None
    while isinstance(first, list) and first:
        first = first[0]
    return isinstance(first, (int, float))


class InMemorySamples:
    """Inputs and labels in memory, by index.

    Args:
        inputs: as `read_inputs` takes them.
        labels: as `read_labels` takes them; None for none.
        model: whose precision arrays get.
    """

    def __init__(self, inputs: Any, labels: Any, model: nn.Module | None) -> None:
        self._tensors, self._rebuild = flatten(read_inputs(inputs, model))
        self._n = len(self._tensors[0]) if self._tensors[0].ndim else 0
        lengths = {len(t) if t.ndim else 0 for t in self._tensors}
        if len(lengths) > 1:
            raise InvalidInputError(f"the inputs must be of one length, got {sorted(lengths)} samples")
        self._labels = None if labels is None else read_labels(labels, self._n)

    def __len__(self) -> int:
        return self._n

    @property
    def known_labels(self) -> list[Any] | None:
        """The labels as plain values; None for none."""
        return None if self._labels is None else self._labels.tolist()

    def __getitem__(self, index: int) -> Any:
        inputs = self._rebuild(tuple(t[index] for t in self._tensors))
        return inputs if self._labels is None else (inputs, self._labels[index])


class _Indexed:
    """Samples with their index; an unreadable one as its reason."""

    def __init__(self, dataset: Any, dtype: torch.dtype) -> None:
        self._dataset, self._dtype = dataset, dtype

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[int, Any, str]:
        try:
            return index, self._tensors_of(self._dataset[index]), ""
        except UnreadableSampleError as err:
            return index, None, str(err)

    def _tensors_of(self, item: Any) -> Any:
        """A sample with its numpy arrays as tensors in the precision of the model."""
        if isinstance(item, np.ndarray):
            tensor = to_tensor(item, "inputs")
            return tensor.to(self._dtype) if tensor.is_floating_point() else tensor
        if isinstance(item, Mapping):
            return {key: self._tensors_of(value) for key, value in item.items()}
        if type(item) in (tuple, list):
            return type(item)(self._tensors_of(value) for value in item)
        return item


class _Collate:
    """Collate what can be read; a class, since worker processes receive it by pickle."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self._collate = collate

    def __call__(self, rows: list[tuple[int, Any, str]]) -> tuple[list[int], Any, dict[int, str]]:
        read = [(index, item) for index, item, reason in rows if not reason]
        skipped = {index: reason for index, _, reason in rows if reason}
        if not read:
            return [], None, skipped
        try:
            batch = self._collate([item for _, item in read])
        except (RuntimeError, TypeError) as err:
            raise InvalidInputError(
                f"samples {read[0][0]} to {read[-1][0]} do not stack into a batch ({str(err).splitlines()[0]}); "
                "bring them to one size"
            ) from err
        return [index for index, _ in read], batch, skipped


class _Parts:
    """Makes parts of what was collated; a class for the same reason."""

    def __init__(self, collate: _Collate, finish: Callable[[SampleBatch], Any] | None) -> None:
        self._collate, self._finish = collate, finish

    def __call__(self, rows: list[tuple[int, Any, str]]) -> Any:
        indices, item, skipped = self._collate(rows)
        inputs, labels = (None, None) if item is None else _pair(item)
        part = SampleBatch(torch.tensor(indices, dtype=torch.long, device="cpu"), inputs, labels, skipped)
        return part if self._finish is None else self._finish(part)


def _pair(item: Any) -> tuple[Any, Tensor | None]:
    """Inputs and labels of a batch; labels None where there are none."""
    if isinstance(item, (tuple, list)) and len(item) == 2 and isinstance(item[1], Tensor) and item[1].ndim == 1:
        return item[0], item[1]
    if holds_labels(item):
        inputs, labels = parts_by_name(item)[:2]
        flatten(inputs)
        return inputs, labels
    inputs = item[0] if isinstance(item, (tuple, list)) and len(item) == 1 else item
    flatten(inputs)
    return inputs, None


def sample_hash(inputs: Any, labels: Tensor | None) -> str:
    """SHA-256 of the first sample of a batch: the bytes of its inputs, and its label."""
    rows = [t[:1] for t in flatten(inputs)[0]]
    label = "" if labels is None else str(labels[0].item())
    return hashlib.sha256("".join([*map(tensor_hash, rows), label]).encode()).hexdigest()


def usual_shard_size(inputs: Any) -> int:
    """The number of samples in a shard, by the size of one sample."""
    size = sum(t[0].numel() * t.element_size() for t in flatten(inputs)[0])
    return max(1, min(SHARD_MOST, SHARD_BYTES // max(1, size)))

"""Whether a loader's samples come in an order that stays."""

from __future__ import annotations

from typing import Any

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)


def shuffles(data: Any) -> bool:
    """Whether this is a loader that draws its samples in another order each time.

    Args:
        data: of the user: a loader, or anything else.
    """
    samplers = [getattr(data, "sampler", None), getattr(getattr(data, "batch_sampler", None), "sampler", None)]
    return any(
        isinstance(sampler, (RandomSampler, SubsetRandomSampler, WeightedRandomSampler))
        or (isinstance(sampler, DistributedSampler) and sampler.shuffle)
        for sampler in samplers
    )


def order_of_its_own(data: Any) -> str:
    """How a loader changes the order of its data set, for a message: ``the loader shuffles them``; "" if it does not.

    Args:
        data: of the user: a loader, or anything else.
    """
    if shuffles(data):
        return "the loader shuffles them"
    return "" if _keeps_order(data) else "the loader has a sampler of its own"


def _keeps_order(data: Any) -> bool:
    if not isinstance(data, DataLoader) or isinstance(data.dataset, IterableDataset):
        return True
    batches: Any = data.batch_sampler
    sampler = data.sampler if batches is None else getattr(batches, "sampler", None)
    return isinstance(sampler, SequentialSampler) and type(batches) in (BatchSampler, type(None))

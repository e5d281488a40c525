"""Whether a loader's samples come in an order that stays."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DistributedSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler


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

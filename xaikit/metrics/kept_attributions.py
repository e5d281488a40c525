"""Attributions that are kept for later, up to a limit of memory."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from xaikit.core.structure import flatten

BYTES_IN_GB = 10**9


class KeptAttributions:
    """The attributions of each explainer, batch by batch; those that were used least recently make room.

    All batches of an explainer go together, since the next metric takes all of them again. Where one explainer's alone
    are above the limit, its first batches are kept.

    Args:
        gigabytes: the limit.
    """

    def __init__(self, gigabytes: float) -> None:
        self._limit = gigabytes * BYTES_IN_GB
        self._by_key: dict[Hashable, dict[int, Any]] = {}  # that used last is the last

    def get(self, key: Hashable, number: int) -> Any:
        """The attribution of a batch; None where it is not kept.

        Args:
            key: of the explainer.
            number: of the batch.
        """
        by_batch = self._by_key.pop(key, None)
        if by_batch is None:
            return None
        self._by_key[key] = by_batch
        return by_batch.get(number)

    def add(self, key: Hashable, number: int, attribution: Any) -> None:
        """Keep the attribution of a batch, if there is or can be made room.

        Args:
            key: of the explainer.
            number: of the batch.
            attribution: a tensor, or several in a tuple or dict.
        """
        size = _size(attribution)
        by_batch = self._by_key.pop(key, {})
        while self._by_key and self.size + _size_of(by_batch) + size > self._limit:
            del self._by_key[next(iter(self._by_key))]
        self._by_key[key] = by_batch
        if self.size + size <= self._limit:
            by_batch[number] = attribution

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return sum(map(_size_of, self._by_key.values()))

    def __len__(self) -> int:
        return sum(map(bool, self._by_key.values()))

    def clear(self) -> None:
        """Forget all."""
        self._by_key.clear()


def _size_of(by_batch: dict[int, Any]) -> int:
    return sum(map(_size, by_batch.values()))


def _size(attribution: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in flatten(attribution)[0])

"""Autograd functions that also work where the model runs a part of itself under torch.vmap."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class RelevanceStep(torch.autograd.Function):
    """One step of the backward pass of relevance.

    Under torch.vmap a step sees one example of a batch that has a further dimension. Steps that act on each entry by
    itself take the batch as a whole, others (`ELEMENTWISE` False) take its examples one by one.
    """

    ELEMENTWISE = True

    def __init_subclass__(cls, **options: Any) -> None:
        """Read the signature of the step once: torch asks for it in each call, which takes as long as a small step."""
        super().__init_subclass__(**options)
        forward: Any = cls.forward
        forward.__signature__ = inspect.signature(forward)

    @classmethod
    def vmap(cls, info: Any, in_dims: Sequence[int | None], *args: Any) -> tuple[Tensor, int]:
        """The step on a batch of examples, (output, the dimension of the batch in it)."""
        n = info.batch_size

        def whole(value: Any, dim: int | None) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.expand(n, *value.shape) if dim is None else value.movedim(dim, 0)

        batches = [whole(value, dim) for value, dim in zip(args, in_dims, strict=True)]
        if cls.ELEMENTWISE:
            return cls.apply(*batches), 0
        examples = [[v[i] if isinstance(v, Tensor) else v for v in batches] for i in range(n)]
        return torch.stack([cls.apply(*example) for example in examples]), 0

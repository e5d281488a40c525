"""Elementwise work on large parts, block by block.

A rule takes about ten elementwise steps for one step of the model. On a CPU, the speed of each step on a large tensor
is limited by the memory, so a rule would take ten times the time of the model's operation. With blocks that stay in the
cache it takes two to three times. This works only without a graph, since autograd needs whole tensors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.layout import ChannelRows

BLOCK = 1 << 17
"""Elements of a part in a block: eight temporaries of this size fit a cache of 4 MiB."""


class Cut:
    """How (masks, *shape) is cut: into rows of its leading dimensions, `sizes` rows to a block.

    The last dimension stays whole, since a softmax needs all of it.

    Attributes:
        dim: the last of the leading dimensions.
        step: rows in a block, within one index of the dimensions before `dim`.
        sizes: rows of each block, in order.
    """

    def __init__(self, shape: torch.Size, device: torch.device) -> None:
        self.shape = shape
        one_block = device.type != "cpu" or prod(shape) <= BLOCK or len(shape) == 1
        dim = 0 if one_block else min(1, len(shape) - 2)  # a block lies within one mask
        inner = prod(shape[dim:])
        while not one_block and dim < len(shape) - 2 and inner // shape[dim] >= BLOCK:
            inner //= shape[dim]
            dim += 1
        length = shape[dim]
        self.dim, self.step = dim, length if one_block else min(length, max(1, BLOCK * length // inner))
        self.outer = prod(shape[:dim])
        self.sizes = [min(self.step, length - start) for start in range(0, length, self.step)] * self.outer

    def rows(self, value: Tensor) -> tuple[Tensor, ...]:
        """The blocks of a tensor of the full shape, as views."""
        return (value,) if len(self.sizes) == 1 else value.view(-1, *value.shape[self.dim + 1 :]).split(self.sizes)

    def views(self, value: Tensor) -> bool:
        """Whether `operand` gives views of the value."""
        lead = value.shape[: max(0, self.dim - (len(self.shape) - value.dim()))]
        return value.is_contiguous() and (len(self.sizes) == 1 or all(size == 1 for size in lead))

    def operand(self, value: Tensor) -> Sequence[Tensor]:
        """For each block, its part of a broadcast operand."""
        if value.numel() == 1:
            return (value.reshape(()),) * len(self.sizes)
        if len(self.sizes) == 1:
            return (value,)
        value = value.reshape(*[1] * (len(self.shape) - value.dim()), *value.shape)
        lead = value.shape[: self.dim]
        if value.shape[0] == 1 and value.shape[1 : self.dim + 1] == self.shape[1 : self.dim + 1]:
            rows = value.flatten(0, self.dim)
            if len(rows) > 1:  # the same for each mask
                return rows.split(self.sizes[: len(self.sizes) // self.shape[0]]) * self.shape[0]
        if any(size > 1 for size in lead):
            full = value.expand(*self.shape[: self.dim + 1], *value.shape[self.dim + 1 :])
            return full.flatten(0, self.dim).split(self.sizes)
        value = value.flatten(0, self.dim)
        return (value,) * len(self.sizes) if len(value) == 1 else value.split(self.step) * self.outer


Kernel = Callable[[Tensor, Tensor, Tensor, Tensor], None]
"""What a step does with a block: r and s, and where the new parts go, which may be the same memory."""


class BlockStep:
    """An elementwise step on the parts: a frozen dataclass whose `OPERANDS` are tensors that broadcast to the value."""

    OPERANDS: ClassVar[tuple[str, ...]]

    @property
    def operands(self) -> tuple[Tensor | None, ...]:
        """The tensors that broadcast to the value."""
        return tuple(getattr(self, name) for name in self.OPERANDS)

    def with_operands(self, change: Callable[[Any], Any]) -> Self:
        """The step for parts in another layout."""
        changed = {name: change(getattr(self, name)) for name in self.OPERANDS}
        return dataclasses.replace(self, **changed)  # type: ignore[type-var]

    def kernels(self, cut: Cut, share: Tensor, parts: Tensor) -> Iterable[Kernel]:
        """A function for each block."""
        raise NotImplementedError

    def totals(self, cut: Cut) -> Iterable[Callable[[Tensor], Tensor]]:
        """What the step makes of the total, a function for each block."""
        raise NotImplementedError


def undecided(cut: Cut, share: Tensor, parts: Tensor) -> Sequence[Tensor | float]:
    """The undecided share of each block, a number where it can be."""
    # A number read from another device than the CPU would mean to wait for it.
    if share.device.type != "cpu" or not shares.is_uniform(share) or (cut.dim == 0 and len(share) > 1):
        return cut.operand(shares.aligned(share, parts.dim() - 2).to(parts.dtype))
    return [number for number in share.tolist() for _ in range(len(cut.sizes) // len(share))]


def run_steps(parts: Tensor, share: Tensor, steps: Sequence[BlockStep], out: Tensor | None = None) -> Tensor:
    """The parts after some steps, each block through all of them: a new pair, or `out`, which may be the old one."""
    rows = ChannelRows.of(parts, share, *(value for step in steps for value in step.operands))
    if rows is not None:
        out = torch.empty_like(parts) if out is None else out  # no view: autograd would not let it be changed in place
        in_rows = [step.with_operands(rows.operand) for step in steps]
        run_steps(rows.parts(parts), rows.share(share), in_rows, rows.parts(out))
        return out
    if not parts.is_contiguous():
        parts = out = parts.contiguous()
    out = torch.empty_like(parts) if out is None else out
    cut = Cut(parts.shape[1:], parts.device)
    pairs = zip(cut.rows(parts[0]), cut.rows(parts[1]), cut.rows(out[0]), cut.rows(out[1]), strict=True)
    kernels = zip(*(step.kernels(cut, share, parts) for step in steps), strict=True)
    for (r, s, new_r, new_s), (first, *others) in zip(pairs, kernels, strict=True):
        first(r, s, new_r, new_s)
        for kernel in others:
            kernel(new_r, new_s, new_r, new_s)
    return out


def run_on_total(total: Tensor, steps: Sequence[BlockStep]) -> Tensor:
    """The total (N, C, *places) after some steps, whose operands are the same at all places of a channel."""
    value = total[None, None]
    rows = ChannelRows.of(value, value.new_zeros(1), *(operand for step in steps for operand in step.operands))
    if rows is None:
        cut = Cut(total.shape, torch.device("meta"))  # as one block
        for step in steps:
            total = next(iter(step.totals(cut)))(total)
        return total
    out = torch.empty_like(total)
    sources, targets = rows.parts(value)[0], rows.parts(out[None, None])[0]
    cut = Cut(sources.shape, total.device)
    block_functions = zip(*(step.with_operands(rows.operand).totals(cut) for step in steps), strict=True)
    for block, into, functions in zip(cut.rows(sources), cut.rows(targets), block_functions, strict=True):
        for function in functions:
            block = function(block)  # noqa: PLW2901
        into.copy_(block)
    return out

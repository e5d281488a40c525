"""Elementwise steps, and putting them off until the parts are looked at.

A rule takes about ten elementwise steps where the model takes one, so they are worth saving. Behind a convolution a
bias, a BatchNorm and an activation are not computed at once. A max-pool that follows picks its entries first, which
leaves a quarter of them. In the end each block of the parts goes through all steps while it is in the cache.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xaikit.explainers.cd.blocks import BlockStep, Cut, Kernel, run_on_total, run_steps, undecided
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.derivatives import ShareConstant, SplitSymmetric


@dataclass(frozen=True)
class AddConstant(BlockStep):
    """Compute scale * x + constant, the constant shared between the parts (`constants`).

    Attributes:
        constant: broadcasting to x.
        scale: likewise; None for 1.
        threshold: the size of the parts below which the undecided share counts, like the constant.
    """

    OPERANDS = ("constant", "scale", "threshold")
    constant: Tensor
    scale: Tensor | None
    threshold: Tensor

    def kernels(self, cut: Cut, share: Tensor, parts: Tensor) -> Iterator[Kernel]:
        """A function for each block."""
        operands = cut.operand(self.constant), cut.operand(self.threshold), self._scales(cut)
        for u, c, low, g in zip(undecided(cut, share, parts), *operands, strict=False):
            yield functools.partial(_share_constant, u, c, low, g)

    def totals(self, cut: Cut) -> Iterator[Callable[[Tensor], Tensor]]:
        """What the step makes of the total, a function for each block."""
        for c, g in zip(cut.operand(self.constant), self._scales(cut), strict=False):
            yield functools.partial(torch.add, c) if g is None else functools.partial(torch.addcmul, c, g)

    def _scales(self, cut: Cut) -> Iterable[Tensor | None]:
        return itertools.repeat(None) if self.scale is None else cut.operand(self.scale)

    def on_parts(self, parts: Tensor, share: Tensor) -> Tensor:
        """The parts, differentiable."""
        return ShareConstant.apply(parts, share, self, *self.operands)  # type: ignore[no-any-return]


def _share_constant(  # noqa: PLR0913, PLR0917
    u: Tensor | float, c: Tensor, low: Tensor, scale: Tensor | None, r: Tensor, s: Tensor, new_r: Tensor, new_s: Tensor
) -> None:
    if scale is not None:
        r, s = r * scale, s * scale
    a, b = r.abs(), s.abs()
    n = a + b
    d = torch.maximum(n, low)
    q = c / d
    e = d.sub_(n)
    if isinstance(u, float):
        a.add_(e, alpha=u)
        b.add_(e, alpha=1 - u)
    else:
        a.add_(e * u)
        b.add_(e * (1 - u))
    torch.addcmul(r, a, q, out=new_r)
    torch.addcmul(s, b, q, out=new_s)


@dataclass(frozen=True)
class SplitStep(BlockStep):
    """Split a function f of each entry, or of each row of entries, with f(0) = 0 or less f(0) (`rules.activations`).

    Attributes:
        function: f.
        symmetric: (f(r + s) + f(r) - f(s)) / 2, and with r and s swapped; else f(r) and f(r + s) - f(r).
        at_zero: f(0), which is taken off f(r + s); None for 0. For symmetric splits.
    """

    OPERANDS = ("at_zero",)
    function: Callable[[Tensor], Tensor]
    symmetric: bool = True
    at_zero: Tensor | None = None

    def kernels(self, cut: Cut, share: Tensor, parts: Tensor) -> Iterator[Kernel]:  # noqa: ARG002
        """A function for each block."""
        if self.at_zero is not None:
            return (functools.partial(self._both_orders, at_zero=value) for value in cut.operand(self.at_zero))
        return itertools.repeat(self._both_orders if self.symmetric else self._relevant_first, len(cut.sizes))

    def totals(self, cut: Cut) -> Iterator[Callable[[Tensor], Tensor]]:
        """What the step makes of the total, a function for each block."""
        return itertools.repeat(self.function, len(cut.sizes))

    def _both_orders(
        self, r: Tensor, s: Tensor, new_r: Tensor, new_s: Tensor, *, at_zero: Tensor | None = None
    ) -> None:
        lead = self.function(r).sub_(self.function(s))
        total = self.function(r + s)
        total = total if at_zero is None else total.sub_(at_zero)
        torch.lerp(lead, total, 0.5, out=new_r)
        torch.sub(total, new_r, out=new_s)  # f(r + s) - 0, or f(r) - f(r): a part that is exactly 0 stays so

    def _relevant_first(self, r: Tensor, s: Tensor, new_r: Tensor, new_s: Tensor) -> None:
        first, total = self.function(r), self.function(r + s)
        torch.sub(total, first, out=new_s)
        new_r.copy_(first)

    def on_parts(self, parts: Tensor, share: Tensor) -> Tensor:  # noqa: ARG002
        """The parts, differentiable."""
        if self.symmetric and self.at_zero is None:
            return SplitSymmetric.apply(parts, self)  # type: ignore[no-any-return]
        of_s = self.function(parts[1]) if self.symmetric else parts[1]
        gain = self.function(parts[0] + parts[1])
        gain = gain if self.at_zero is None else gain - self.at_zero
        return split_gain(self.function(parts[0]), of_s, gain, symmetric=self.symmetric)


def split_gain(of_r: Tensor, of_s: Tensor, gain: Tensor, at_zero: Tensor | None = None, *, symmetric: bool) -> Tensor:
    """Split gain = f(r + s) - f(0), given f(r) and f(s), into stacked parts.

    Symmetric: r' = (gain + f(r) - f(s)) / 2 and s' = (gain - f(r) + f(s)) / 2. Else r' = f(r) - f(0) and
    s' = f(r + s) - f(r). Where r or s is exactly 0, its part is exactly 0.
    """
    if symmetric:
        lead = of_r - of_s
        return torch.stack([gain + lead, gain - lead]).mul_(0.5)
    first = of_r if at_zero is None else of_r - at_zero
    return torch.stack([first, gain - first])


@dataclass(frozen=True)
class FillRest(BlockStep):
    """Let s be t - r, for the total t of all masks (`linear`)."""

    OPERANDS = ("total",)
    total: Tensor

    def kernels(self, cut: Cut, share: Tensor, parts: Tensor) -> Iterator[Kernel]:  # noqa: ARG002
        """A function for each block."""
        return (functools.partial(self._filled, total) for total in cut.operand(self.total))

    @staticmethod
    def _filled(total: Tensor, r: Tensor, s: Tensor, new_r: Tensor, new_s: Tensor) -> None:  # noqa: ARG004
        torch.sub(total, r, out=new_s)
        if new_r.data_ptr() != r.data_ptr():
            new_r.copy_(r)

    def on_parts(self, parts: Tensor, share: Tensor) -> Tensor:  # noqa: ARG002
        """The parts, differentiable."""
        return torch.stack([parts[0], self.total - parts[0]])


PartsStep = AddConstant | SplitStep | FillRest


def run(x: Decomposed, steps: Sequence[PartsStep], *, may_overwrite: bool = False) -> Decomposed:
    """The value after some steps, whose operands have no more dimensions than it has.

    With `may_overwrite` the result may take the place of the parts of x.
    """
    parts, share = x.parts, x.share
    operands = [value for step in steps for value in step.operands if value is not None]
    if torch.is_grad_enabled() and any(value.requires_grad for value in (parts, share, *operands)):
        for step in steps:
            parts = step.on_parts(parts, share)
        return x.like(parts)
    return x.like(run_steps(parts, share, steps, parts if may_overwrite else None))


@dataclass(eq=False)
class Holders:
    """Which values use the parts of a value whose further steps are put off.

    Attributes:
        holders: the results that have not been looked at yet.
        exposed: whether the parts were handed out, so that other code may still hold them or views of them.
    """

    holders: list[weakref.ref[Decomposed]] = field(default_factory=list)
    exposed: bool = False


class Deferred:
    """Steps that are put off, on the fresh result of a linear map or on what a max-pool picked of a convolution's.

    Args:
        value: without the steps.
        steps: what is still to be done.
        holders: those who hold the value, if others do.
        per_channel: whether the operands of all steps are the same at all places of a channel, so that places may be
            picked first.
    """

    def __init__(
        self,
        value: Decomposed,
        steps: tuple[PartsStep, ...] = (),
        holders: Holders | None = None,
        *,
        per_channel: bool = True,
    ) -> None:
        self.value, self.steps, self.per_channel = value, steps, per_channel
        self._holders = Holders() if holders is None else holders
        self.differentiable = torch.is_grad_enabled()

    def finished(self) -> Tensor:
        """The parts after the steps, differentiable as they were when these were put off."""
        if not self.steps:
            self._holders.exposed = True
            return self.value.parts
        others = (holder() for holder in self._holders.holders)
        alone = not self._holders.exposed and not any(
            other is not None and other.deferred is not None and other.deferred.value is self.value for other in others
        )
        with torch.set_grad_enabled(self.differentiable):
            return run(self.value, self.steps, may_overwrite=alone).parts

    def then(self, step: PartsStep) -> Decomposed:
        """The value after a further step."""
        return Deferred(self.value, (*self.steps, step), self._holders, per_channel=self.per_channel).pending()

    def picked(self, pick: Callable[[Tensor], Tensor]) -> Decomposed:
        """The value of which some places are picked; the steps are still to be done."""
        return Deferred(self.value.like(pick(self.value.parts)), self.steps).pending()

    def known_total(self) -> Tensor | None:
        """The total after the steps where it need not be computed."""
        return self.value.total if all(isinstance(step, FillRest) for step in self.steps) else None

    def total(self) -> Tensor:
        """The total after the steps, without a graph: it tells which places a max-pool picks."""
        with torch.no_grad():
            steps = [step for step in self.steps if not isinstance(step, FillRest)]
            return run_on_total(self.value.total, steps) if steps else self.value.total

    def pending(self) -> Decomposed:
        """The value that looks as if all steps were done."""
        result = self.value.like(self.value.parts)
        result.deferred = self.for_holder(result)
        return result

    def for_holder(self, holder: Decomposed) -> Deferred:
        """The same, for a further holder of the value."""
        self._holders.holders.append(weakref.ref(holder))
        return self


def after(x: Decomposed, step: PartsStep) -> Decomposed:
    """The value after a step, which is put off if others are."""
    return run(x, [step], may_overwrite=x.may_overwrite) if x.deferred is None else x.deferred.then(step)

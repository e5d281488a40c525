"""Elementwise steps, and putting them off until the parts are looked at.

A rule takes about ten elementwise steps where the model takes one, so they are worth saving. Behind a convolution a
bias, a BatchNorm and an activation are not computed at once. A max-pool that follows picks its entries first, which
leaves a quarter of them. In the end each block of the parts goes through all steps while it is in the cache.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xaikit.explainers.cd.blocks import AddedConstant, RestOfTotal, SplitFunction, run_on_total, run_steps
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.derivatives import ShareConstant, SplitSymmetric


class AddConstant(AddedConstant):
    """Compute scale * x + constant, the constant shared between the parts (`constants`)."""

    def on_parts(self, parts: Tensor, share: Tensor) -> Tensor:
        """The parts, differentiable."""
        result: Tensor = ShareConstant.apply(parts, self.constant, share, self.scale, self.threshold)
        return result


class SplitStep(SplitFunction):
    """Split an elementwise f with f(0) = 0 (`rules.activations`)."""

    def on_parts(self, parts: Tensor, share: Tensor) -> Tensor:  # noqa: ARG002
        """The parts, differentiable."""
        if self.symmetric and self.at_zero is None:
            result: Tensor = SplitSymmetric.apply(parts, self.function)
            return result
        of_r, of_total = self.function(parts[0]), self.function(parts[0] + parts[1])
        if not self.symmetric:
            return torch.stack([of_r, of_total - of_r])
        lead = of_r - self.function(parts[1])
        gain = of_total if self.at_zero is None else of_total - self.at_zero
        return 0.5 * torch.stack([gain + lead, gain - lead])


class FillRest(RestOfTotal):
    """Let s be what the total leaves (`linear`)."""

    def on_parts(self, parts: Tensor, share: Tensor) -> Tensor:  # noqa: ARG002
        """The parts, differentiable."""
        return torch.stack([parts[0], self.total - parts[0]])


PartsStep = AddConstant | SplitStep | FillRest


def run(x: Decomposed, steps: Sequence[PartsStep], *, may_overwrite: bool = False) -> Decomposed:
    """The value after some steps, whose operands have no more dimensions than it has.

    Args:
        x: the value.
        steps: in their order.
        may_overwrite: whether the result may take the place of the parts of x.
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
        result.defer(self.for_holder(result))
        return result

    def for_holder(self, holder: Decomposed) -> Deferred:
        """The same, for a further holder of the value."""
        self._holders.holders.append(weakref.ref(holder))
        return self


def after(x: Decomposed, step: PartsStep) -> Decomposed:
    """The value after a step, which is put off if others are."""
    return run(x, [step], may_overwrite=x.may_overwrite) if x.deferred is None else x.deferred.then(step)

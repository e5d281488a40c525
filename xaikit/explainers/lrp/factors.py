"""Steps of relevance that multiply each entry of g = R / y by a number, joined where one follows another.

Where several backward passes run through one forward pass, the product of such numbers is computed in the first of them
and serves all. A token of a generated text then costs about what a plain backward pass costs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from xaikit.core import torch_private
from xaikit.explainers.lrp.batched import RelevanceStep
from xaikit.explainers.lrp.flow import Damped, Flow, Multiplier, nonzero

DTYPES = (torch.float32, torch.float64, torch.bfloat16)  # a product of factors may overflow in half of the range


class Scaled(RelevanceStep):
    """y for the forward pass; each of some tensors gets g times its factors."""

    @staticmethod
    def forward(y: Tensor, rows: list[tuple[Multiplier, ...]], flow: Flow, *starts: Tensor) -> Tensor:  # noqa: ARG004, D102
        return y.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004, D102
        _, ctx.rows, *_ = inputs
        ctx.factors = None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,) = grads
        with torch_private.DisableTorchFunction():
            if ctx.factors is None:
                ctx.factors, ctx.rows = [_product(row) for row in ctx.rows], None
            return None, None, None, *(g * factor for factor in ctx.factors)


def _product(factors: tuple[Multiplier, ...]) -> Any:
    first, *others = (factor() for factor in factors)
    for other in others:
        first = first * other
    return first


def joins(flow: Flow, *tensors: Tensor) -> bool:
    """Whether steps between these tensors are joined: several passes, no derivative, one dtype."""
    if not flow.factors_stay:
        return False
    dtype = tensors[0].dtype
    return dtype in DTYPES and all(x.dtype == dtype and not torch_private.is_batched(x) for x in tensors)


def scaled(flow: Flow, y: Tensor, *ways: tuple[Tensor, Multiplier]) -> Tensor:
    """A result y with relevance to tensors shaped like it, each with the factor of g."""
    rows = [(start, (*factors, factor)) for x, factor in ways for start, factors in (flow.chains.before(x),)]
    result: Tensor = Scaled.apply(y, [factors for _, factors in rows], flow, *(start for start, _ in rows))
    if len(rows) == 1:
        flow.chains.note(result, *rows[0])
    return result


def damped_output(flow: Flow, y: Tensor, damp: Any) -> Tensor:
    """The output y of a linear operation, of which `damp` stabilises the denominator: `Flow.damped`."""
    if not isinstance(damp, Damped) or not joins(flow, y):
        return flow.damped(y, damp)
    saved = flow.save(y)
    return scaled(flow, y, (y, lambda: damp.factor(saved.tensor)))


def passed_on(flow: Flow, x: Tensor, y: Tensor, *, identity: bool = False) -> Tensor:
    """The result y of a function of each entry of x, which gets the relevance: `Flow.handed_on`."""
    if x.shape != y.shape or not joins(flow, x, y):
        return flow.handed_on(x, y, identity)
    before, after = flow.save(x), flow.save(y)
    return scaled(flow, y, (x, lambda: nonzero(after.tensor) / nonzero(before.tensor)))


def in_part(flow: Flow, x: Tensor, fraction: float) -> Tensor:
    """x, to which the given fraction of its relevance is handed on: `Flow.fraction_of`."""
    if not joins(flow, x):
        return flow.fraction_of(x, fraction)
    return scaled(flow, x, (x, lambda: fraction))


def product_of_two(flow: Flow, x: Tensor, y: Tensor, takers: list[Tensor]) -> Tensor | None:
    """A product, its relevance in equal shares to those that take it; None where no steps are joined."""
    if not joins(flow, x, y) or any(t.shape != torch.broadcast_shapes(x.shape, y.shape) for t in takers):
        return None
    with torch.no_grad():
        result = x * y

    def way(taker: Tensor, other: Tensor) -> tuple[Tensor, Multiplier]:
        saved = flow.save(other.detach())
        share = 1 / len(takers)
        return taker, lambda: saved.tensor if share == 1 else saved.tensor * share

    return scaled(flow, result, *(way(t, o) for t, o in ((x, y), (y, x)) if any(t is taker for taker in takers)))

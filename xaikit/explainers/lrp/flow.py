"""How relevance flows through autograd: steps that act on relevance in one backward pass and on the true gradient in all others.

What flows backwards is g = R / x, relevance per unit of activation. In this form LRP-0 is the gradient itself, so that
sums, reshapes, poolings and every other linear operation need no rule: R_in = x * (dy/dx)^T (R_out / y).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

TINY = 1e-12  # stands for an activation of exactly 0, which a rule may still give relevance (ZBox on a black pixel)
FLOOR = {torch.float16: 1e-7}


def nonzero(x: Tensor) -> Tensor:
    """x with a tiny number in place of each 0, so that R = g * x and g = R / x are inverse to each other everywhere."""
    return torch.where(x == 0, FLOOR.get(x.dtype, TINY), x)


class Flow:
    """Whether the backward pass that runs now carries relevance.

    One object per attribution call: a second derivative runs through the same graph later, with `active` off.
    """

    def __init__(self) -> None:
        self.active = False

    @contextlib.contextmanager
    def relevance(self) -> Iterator[None]:
        """Every backward pass inside carries relevance."""
        self.active = True
        try:
            yield
        finally:
            self.active = False


class _Step(torch.autograd.Function):
    """Identity on y for the forward pass and the true gradient; relevance goes where `backward_relevance` says."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError


class Stop(_Step):
    """x for the forward pass; no relevance reaches it (a frozen scale, an attention weight)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flow: Flow) -> Tensor:
        ctx.flow = flow
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (None if ctx.flow.active else grads[0]), None


class Share(_Step):
    """x for the forward pass; the given fraction of the relevance reaches it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, fraction: float, flow: Flow) -> Tensor:
        ctx.flow, ctx.fraction = flow, fraction
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return (grads[0] * ctx.fraction if ctx.flow.active else grads[0]), None, None


class Pass(_Step):
    """y = f(x), elementwise: x gets the relevance of y, R_in = R_out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, flow: Flow) -> Tensor:
        ctx.flow = flow
        ctx.save_for_backward(x, y)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,) = grads
        if not ctx.flow.active:
            return None, g, None
        x, y = ctx.saved_tensors
        with torch._C.DisableTorchFunction():
            return g * nonzero(y) / nonzero(x), None, None


class Output(_Step):
    """y of an operation that is linear in its input; `divide(R, y)` stands for R / y in its backward pass.

    This is zennit's Epsilon and Norm: R_in = x * (dy/dx)^T (R_out / (y + epsilon * sign(y))).
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, divide: Callable[[Tensor, Tensor], Tensor], flow: Flow) -> Tensor:
        ctx.flow, ctx.divide = flow, divide
        ctx.save_for_backward(y)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,) = grads
        if not ctx.flow.active:
            return g, None, None
        (y,) = ctx.saved_tensors
        with torch._C.DisableTorchFunction():
            return ctx.divide(g * nonzero(y), y), None, None


class Ruled(_Step):
    """y of a layer whose input gets its relevance by `rule(x, y, R, *parameters) -> R_in / x`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, rule: Callable[..., Tensor], flow: Flow, *parameters: Tensor | None) -> Tensor:
        ctx.flow, ctx.rule = flow, rule
        ctx.save_for_backward(x, y, *parameters)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (g,) = grads
        rest = (None,) * (len(ctx.saved_tensors) if ctx.flow.active else len(ctx.needs_input_grad) - 2)
        if not ctx.flow.active:
            return None, g, *rest
        x, y, *parameters = ctx.saved_tensors
        with torch._C.DisableTorchFunction():
            return ctx.rule(x, y, g * nonzero(y), *parameters), None, *rest

"""How relevance flows through autograd: steps that act on one backward pass and leave the true gradient to all others.

What flows backwards is g = R / x, relevance per unit of activation. In this form LRP-0 is the gradient itself, so that
sums, reshapes, poolings and every other linear operation need no rule: R_in = x * (dy/dx)^T (R_out / y).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from xaikit.core import torch_private

# What an activation of exactly 0 counts as: a rule may still give it relevance (ZBox on a black pixel). Added to any
# other activation it is lost in rounding.
TINY = {torch.float64: 1e-30, torch.float16: 1e-7}


def nonzero(x: Tensor) -> Tensor:
    """The tensor with a tiny number for each 0, so that R = g * x and g = R / x are inverse everywhere."""
    return x + TINY.get(x.dtype, 1e-18)


def damped(g: Tensor, y: Tensor, epsilon: float) -> Tensor:
    """The stand-in for g = R / y with a stabilizer: R / (y + epsilon * sign(y)) = g * |y| / (|y| + epsilon)."""
    size = y.abs()
    if torch.is_grad_enabled():
        return g * (nonzero(size) / (size + epsilon))
    return (size + epsilon).reciprocal_().mul_(size.add_(TINY.get(y.dtype, 1e-18))).mul_(g)


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


class Stop(torch.autograd.Function):
    """x for the forward pass; no relevance reaches it (a frozen scale, an attention weight)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, flow: Flow) -> Tensor:  # noqa: D102
        ctx.flow = flow
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return (None if ctx.flow.active else grads[0]), None


class Share(torch.autograd.Function):
    """x for the forward pass; the given fraction of the relevance reaches it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, fraction: float, flow: Flow) -> Tensor:  # noqa: D102
        ctx.flow, ctx.fraction = flow, fraction
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return (grads[0] * ctx.fraction if ctx.flow.active else grads[0]), None, None


class Side(torch.autograd.Function):
    """y for the forward pass and for true gradients; relevance goes to a leaf, where it is read off."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, leaf: Tensor, flow: Flow) -> Tensor:  # noqa: ARG004, D102
        ctx.flow = flow
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return (None, grads[0], None) if ctx.flow.active else (grads[0], None, None)


class Beside(torch.autograd.Function):
    """y for the forward pass and for true gradients; its relevance goes the way of y and of a side, each in full."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, side: Tensor, flow: Flow) -> Tensor:  # noqa: ARG004, D102
        ctx.flow = flow
        return y.clone()  # what follows may work in place

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return grads[0], (grads[0] if ctx.flow.active else None), None


class Pass(torch.autograd.Function):
    """y = f(x), elementwise: x gets the relevance of y, R_in = R_out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, flow: Flow) -> Tensor:  # noqa: D102
        ctx.flow = flow
        ctx.save_for_backward(x, y)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,) = grads
        if not ctx.flow.active:
            return None, g, None
        x, y = ctx.saved_tensors
        with torch_private.DisableTorchFunction():
            return g * nonzero(y) / nonzero(x), None, None


class Output(torch.autograd.Function):
    """y of an operation that is linear in its input; `damp(g, y)` stands for R / y = g in its backward pass.

    This is zennit's Epsilon and Norm: R_in = x * (dy/dx)^T (R_out / (y + epsilon * sign(y))).
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, damp: Callable[[Tensor, Tensor], Tensor], flow: Flow) -> Tensor:  # noqa: D102
        ctx.flow, ctx.damp = flow, damp
        ctx.save_for_backward(y)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,) = grads
        if not ctx.flow.active:
            return g, None, None
        (y,) = ctx.saved_tensors
        with torch_private.DisableTorchFunction():
            return ctx.damp(g, y), None, None


class Ruled(torch.autograd.Function):
    """y of a layer whose input gets its relevance by `rule(x, y, R, *parameters) -> R_in / x`."""

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any, x: Tensor, y: Tensor, rule: Callable[..., Tensor], flow: Flow, *parameters: Tensor | None
    ) -> Tensor:
        ctx.flow, ctx.rule = flow, rule
        ctx.save_for_backward(x, y, *parameters)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,) = grads
        rest = (None,) * (len(ctx.needs_input_grad) - 2)
        if not ctx.flow.active:
            return None, g, *rest
        x, y, *parameters = ctx.saved_tensors
        with torch_private.DisableTorchFunction():
            return ctx.rule(x, y, g * nonzero(y), *parameters), None, *rest

"""Relevance in autograd's graph: steps that act on one backward pass and leave the true gradient to all others.

What flows backwards is g = R / x, relevance per unit of activation. In this form LRP-0 is the gradient itself, so that
sums, reshapes, poolings and every other linear operation need no rule: R_in = x * (dy/dx)^T (R_out / y).
Of complex values, g and R are such that R = Re(conj(g) x), as torch's gradients of complex values are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from xaikit.core import torch_private
from xaikit.core.sparse_layouts import dense_parts
from xaikit.explainers.lrp.batched import RelevanceStep

Multiplier = Callable[[], Any]  # a number, or a tensor that broadcasts to the input of a step
# Stands in for an activation of exactly 0, to which a rule may still give relevance (ZBox on a black pixel). It is so
# small that it would be lost in rounding if it were added to any other activation.
TINY = {torch.float64: 1e-30, torch.complex128: 1e-30, torch.float16: 1e-7}


def nonzero(x: Tensor) -> Tensor:
    """The tensor with a tiny number for each 0, so that R = g * x and g = R / x are inverse everywhere."""
    return x + TINY.get(x.dtype, 1e-18)


def relevance_of(g: Tensor, x: Tensor) -> Tensor:
    """R of g = R / x, a real number for each entry."""
    if x.is_complex():
        return (g.conj() * nonzero(x)).real
    return g * nonzero(x) if torch.is_grad_enabled() else into(nonzero(x), g)


def into(fresh: Tensor, g: Tensor) -> Tensor:
    """The product with g, in the memory of `fresh` but where g stands for several backward passes at once."""
    return fresh * g if torch_private.is_batched(g) and not torch_private.is_batched(fresh) else fresh.mul_(g)


def per_unit(relevance: Tensor, x: Tensor) -> Tensor:
    """The g = R / x of a relevance."""
    return relevance / nonzero(x).conj()


class Relevance(torch.autograd.Function):
    """R = g * y, of which only the two factors are kept."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(g, y)
        return nonzero(y).mul_(g)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        g, y = ctx.saved_tensors
        by_g, by_y = ctx.needs_input_grad
        return grads[0] * nonzero(y) if by_g else None, grads[0] * g if by_y else None


class Ratio(torch.autograd.Function):
    """R / d for R = g * y, of which g, y and d are kept; its gradient with respect to g and y goes by R."""

    @staticmethod
    def forward(ctx: Any, relevance: Tensor, g: Tensor, y: Tensor, d: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(g, y, d)
        return relevance / d

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        g, y, d = ctx.saved_tensors
        by_relevance = grads[0] / d
        if not ctx.needs_input_grad[3]:
            return by_relevance, None, None, None
        if torch.is_grad_enabled():
            return by_relevance, None, None, -by_relevance * g * nonzero(y) / d
        return by_relevance, None, None, (by_relevance * g).mul_(y).div_(d).neg_()


def ratio(g: Tensor, y: Tensor, d: Tensor) -> Tensor:
    """R / d for the relevance R = g * y of an output y, and a denominator d of the same shape."""
    if torch.is_grad_enabled():
        result: Tensor = Ratio.apply(Relevance.apply(g, y), g, y, d)
        return result
    return into(nonzero(y), g).div_(d)


@dataclasses.dataclass(frozen=True)
class Damped:
    """The stand-in for g = R / y with a stabilizer: R / (y + epsilon * sign(y)) = g * |y| / (|y| + epsilon)."""

    epsilon: float

    def factor(self, y: Tensor) -> Tensor:
        """|y| / (|y| + epsilon), by which g is multiplied."""
        size = y.abs()
        if torch.is_grad_enabled() or y.is_complex():
            return nonzero(size) / (size + self.epsilon)
        denominator = size + self.epsilon
        return size.add_(TINY.get(y.dtype, 1e-18)).div_(denominator)

    def __call__(self, g: Tensor, y: Tensor) -> Tensor:
        """The stand-in for g."""
        factor = self.factor(y)
        return g * factor if torch.is_grad_enabled() or y.is_complex() else into(factor, g)


@dataclasses.dataclass(eq=False)
class Saved:
    """A tensor that a backward pass needs as it is now, also where the model goes on to write into its memory."""

    tensor: Tensor


class Chains:
    """For the results of such steps: the tensor where the steps in a row begin, and the factors on the way to it.

    A tensor that was written into since then begins a new row.
    """

    def __init__(self) -> None:
        self._rows: Any = WeakIdKeyDictionary()  # result -> (start, factors), its version then

    def before(self, x: Tensor) -> tuple[Tensor, tuple[Multiplier, ...]]:
        """Where the row of steps that ends at x begins, and its factors."""
        row, version = self._rows.get(x, ((x, ()), -1))
        return row if version == torch_private.version_of(x) else (x, ())

    def note(self, result: Tensor, start: Tensor, factors: tuple[Multiplier, ...]) -> None:
        """Remember the row that ends at a result."""
        self._rows[result] = (start, factors), torch_private.version_of(result)

    def clear(self) -> None:
        """Forget all rows, once the forward pass is over."""
        self._rows.clear()


class Flow:
    """Whether the backward pass that runs now carries relevance, and the tensors that it needs.

    One object per attribution call: a second derivative runs through the same graph later, with `active` off.

    Args:
        differentiable: whether there is a second derivative. Without one each step of the backward pass runs once, and
            a true gradient never.
        repeated: whether the backward pass runs once for each of several targets.
    """

    def __init__(self, *, differentiable: bool = True, repeated: bool = False) -> None:
        self.active = False
        self.differentiable = differentiable
        # What the first of several backward passes computes of activations alone serves the others.
        self.factors_stay = repeated and not differentiable
        self.chains = Chains()
        self._keeps = differentiable or repeated
        self._saved: dict[int, list[weakref.ref[Saved]]] = defaultdict(list)

    @contextlib.contextmanager
    def relevance(self) -> Iterator[None]:
        """Every backward pass inside carries relevance."""
        before, self.active = self.active, True
        try:
            yield
        finally:
            self.active = before  # a pass that is computed again may lie inside another

    def save(self, x: Tensor) -> Saved:
        """Keep a tensor for the backward pass. It is copied only if `before_write` tells that it is about to change.

        So the result of a step may share the memory of what the step saves, unless torch saves it, too: a clone then.
        """
        saved = Saved(x)
        self._saved[_memory(x)].append(weakref.ref(saved))
        return saved

    def before_write(self, x: Tensor) -> None:
        """Copy what was saved of the memory of x, which the model is about to write into."""
        for reference in self._saved.pop(_memory(x), ()):
            saved = reference()
            if saved is not None:
                saved.tensor = saved.tensor.clone()

    def values_only(self) -> contextlib.AbstractContextManager[Any]:
        """While active, outputs are computed without a graph, since a step of the backward pass replaces theirs."""
        return contextlib.nullcontext() if self.differentiable else torch.no_grad()

    def release(self, *places: Saved) -> None:
        """Let go of what a step of the backward pass needed, if it does not run again."""
        if not self._keeps:
            for saved in places:
                del saved.tensor


def _memory(x: Tensor) -> int:
    return dense_parts(torch_private.batch_of(x))[0].untyped_storage().data_ptr()


class Stop(RelevanceStep):
    """x for the forward pass; no relevance reaches it (a frozen scale, an attention weight)."""

    @staticmethod
    def forward(x: Tensor, flow: Flow) -> Tensor:  # noqa: ARG004, D102
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return (None if ctx.flow.active else grads[0]), None


class Share(RelevanceStep):
    """x for the forward pass; the given fraction of the relevance reaches it."""

    @staticmethod
    def forward(x: Tensor, fraction: float | Tensor, flow: Flow) -> Tensor:  # noqa: ARG004, D102
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004, D102
        _, ctx.fraction, ctx.flow = inputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return (grads[0] * ctx.fraction if ctx.flow.active else grads[0]), None, None


class ReadRelevance(RelevanceStep):
    """y for the forward pass and for true gradients; its relevance arrives at a leaf tensor, where it is read."""

    @staticmethod
    def forward(y: Tensor, leaf: Tensor, flow: Flow) -> Tensor:  # noqa: ARG004, D102
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return (None, grads[0], None) if ctx.flow.active else (grads[0], None, None)


class BranchRelevance(RelevanceStep):
    """y for the forward pass and for true gradients; its relevance goes the way of y and of a branch, each in full."""

    @staticmethod
    def forward(y: Tensor, branch: Tensor, flow: Flow) -> Tensor:  # noqa: ARG004, D102
        return y.clone()  # what follows may work in place

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return grads[0], (grads[0] if ctx.flow.active else None), None


class Pass(RelevanceStep):
    """y = f(x), entry by entry: x gets the relevance of y, R_in = R_out.

    `identity` says that where y is x, f is the identity around x, too: the factor y / x is 1 and has no derivative.
    """

    @staticmethod
    def forward(x: Tensor, y: Tensor, flow: Flow, identity: bool = False) -> Tensor:  # noqa: ARG004, D102
        return y.clone() if flow.differentiable else y.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004, D102
        x, y, ctx.flow, ctx.identity = inputs
        ctx.x, ctx.y, ctx.factor = ctx.flow.save(x), ctx.flow.save(y), None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,) = grads
        if not ctx.flow.active:
            return None, g, None, None
        with torch_private.DisableTorchFunction():
            return Pass.of_input(ctx, g), None, None, None

    @staticmethod
    def of_input(ctx: Any, g: Tensor) -> Tensor:
        """R / x of R / y = g."""
        if ctx.factor is not None:
            return g * ctx.factor
        x, y = ctx.x.tensor, ctx.y.tensor
        ctx.flow.release(ctx.x, ctx.y)
        if x.is_complex() or y.is_complex():
            return per_unit(relevance_of(g, y), x)
        if x.dtype == torch.float16:  # half of the range: y / x may overflow
            return g * nonzero(y) / nonzero(x)
        # Exactly 1 where y is x, so that branches with opposite g, however large, cancel: x - relu(x).
        factor = nonzero(y) / nonzero(x)
        if ctx.identity and torch.is_grad_enabled():  # the two parts of its derivative cancel up to rounding alone
            factor = factor.where(y != x, 1)
        if ctx.flow.factors_stay:  # in place of both
            ctx.factor = factor
            del ctx.x, ctx.y
        return g * factor


class Output(RelevanceStep):
    """y of an operation that is linear in its input; `damp(g, y)` stands for R / y = g in its backward pass.

    This is zennit's Epsilon and Norm: R_in = x * (dy/dx)^T (R_out / (y + epsilon * sign(y))).
    """

    @staticmethod
    def forward(y: Tensor, damp: Callable[[Tensor, Tensor], Tensor], flow: Flow) -> Tensor:  # noqa: ARG004, D102
        return y.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004, D102
        y, ctx.damp, ctx.flow = inputs
        ctx.y = ctx.flow.save(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,) = grads
        if not ctx.flow.active:
            return g, None, None
        y = ctx.y.tensor
        ctx.flow.release(ctx.y)
        with torch_private.DisableTorchFunction():
            return ctx.damp(g, y), None, None


class Ruled(RelevanceStep):
    """y of a layer whose input gets its relevance by `rule(x, y, R / y, *parameters) -> R_in / x`."""

    ELEMENTWISE = False

    @staticmethod
    def forward(  # noqa: D102
        x: Tensor,  # noqa: ARG004
        y: Tensor,
        rule: Callable[..., Tensor],  # noqa: ARG004
        flow: Flow,  # noqa: ARG004
        *parameters: Tensor | None,  # noqa: ARG004
    ) -> Tensor:
        return y.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004, D102
        x, y, ctx.rule, ctx.flow, *parameters = inputs
        ctx.x, ctx.y = ctx.flow.save(x), ctx.flow.save(y)
        ctx.save_for_backward(*parameters)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,) = grads
        no_gradients = (None,) * (len(ctx.needs_input_grad) - 2)
        if not ctx.flow.active:
            return None, g, *no_gradients
        x, y = ctx.x.tensor, ctx.y.tensor
        ctx.flow.release(ctx.x, ctx.y)
        with torch_private.DisableTorchFunction():
            return ctx.rule(x, y, g, *ctx.saved_tensors), None, *no_gradients


class UserRuled(RelevanceStep):
    """y of an operation whose operands get their relevance by `rule(R, y, *operands) -> R_in of each`."""

    ELEMENTWISE = False

    @staticmethod
    def forward(y: Tensor, rule: Callable[..., Any], flow: Flow, *operands: Tensor) -> Tensor:  # noqa: ARG004, D102
        return y.clone() if flow.differentiable else y.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004, D102
        y, ctx.rule, ctx.flow, *operands = inputs
        ctx.y, ctx.operands = ctx.flow.save(y), [ctx.flow.save(x) for x in operands]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,) = grads
        if not ctx.flow.active:
            return g, None, None, *(None for _ in ctx.operands)
        operands, y = [saved.tensor for saved in ctx.operands], ctx.y.tensor
        with torch_private.DisableTorchFunction():
            shares = ctx.rule(relevance_of(g, y), y, *operands)
            units = (None if r is None else per_unit(r, x) for r, x in zip(shares, operands, strict=True))
        return None, None, None, *units

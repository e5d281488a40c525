"""Relevance in autograd's graph: steps that act on one backward pass and leave the true gradient to all others.

What flows backwards is g = R / x, relevance per unit of activation. In this form LRP-0 is the gradient itself, so that
sums, reshapes, poolings and every other linear operation need no rule: R_in = x * (dy/dx)^T (R_out / y).
Of complex values, g and R are such that R = Re(conj(g) x), as torch's gradients of complex values are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from xaikit.core import torch_private
from xaikit.core.sparse_layouts import dense_parts
from xaikit.explainers.lrp.batched import RelevanceStep

Way = Callable[..., Sequence[Tensor | None]]
Multiplier = Callable[[], Any]  # a number, or a tensor that broadcasts to the input of a step
# Stands in for an activation of exactly 0, to which a rule may still give relevance (ZBox on a black pixel). It is so
# small that it would be lost in rounding if it were added to any other activation.
TINY = {torch.float64: 1e-30, torch.complex128: 1e-30, torch.float16: 1e-7}


def nonzero(x: Tensor) -> Tensor:
    """The tensor with a tiny number for each 0, so that R = g * x and g = R / x are inverse everywhere."""
    return x + TINY.get(x.dtype, 1e-18)


def relevance_of(g: Tensor, x: Tensor) -> Tensor:
    """R of g = R / x, a real number for each entry."""
    return (g.conj() * nonzero(x)).real if x.is_complex() else into(nonzero(x), g)


def per_unit(relevance: Tensor, x: Tensor) -> Tensor:
    """The g = R / x of a relevance."""
    return relevance / nonzero(x).conj()


def into(fresh: Tensor, g: Tensor) -> Tensor:
    """The product with g, in the memory of `fresh` but where it is differentiated or g stands for several passes."""
    several = torch_private.is_batched(g) and not torch_private.is_batched(fresh)
    return fresh * g if torch.is_grad_enabled() or several or g.dtype != fresh.dtype else fresh.mul_(g)


class Relevance(torch.autograd.Function):
    """R = g * y, of which only the two factors are kept."""

    @staticmethod
    def forward(ctx: Any, g: Tensor, y: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(g, y)
        return into(nonzero(y), g)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        g, y = ctx.saved_tensors
        by_g, by_y = ctx.needs_input_grad
        return into(nonzero(y), grads[0]) if by_g else None, grads[0] * g if by_y else None


class Ratio(torch.autograd.Function):
    """R / d for R = g * y, of which g, y and d are kept; a step of its own, so that d is let go of before R is."""

    @staticmethod
    def forward(ctx: Any, relevance: Tensor, g: Tensor, y: Tensor, d: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(g, y, d)
        return relevance / d

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        g, y, d = ctx.saved_tensors
        of_relevance = grads[0] / d
        of_d = (of_relevance * g).mul_(y).div_(d).neg_() if ctx.needs_input_grad[3] else None
        return of_relevance, None, None, of_d


def ratio(g: Tensor, y: Tensor, d: Tensor) -> Tensor:
    """R / d for the relevance R = g * y of an output y, and a denominator d of the same shape."""
    if not torch.is_grad_enabled():
        return into(nonzero(y), g).div_(d)
    return Ratio.apply(Relevance.apply(g, y), g, y, d)  # type: ignore[no-any-return]


@dataclasses.dataclass(frozen=True)
class Damped:
    """The stand-in for g = R / y with a stabilizer: R / (y + epsilon * sign(y)) = g * |y| / (|y| + epsilon)."""

    epsilon: float

    def factor(self, y: Tensor) -> Tensor:
        """|y| / (|y| + epsilon), by which g is multiplied."""
        size = nonzero(y.abs())
        return size / (size + self.epsilon) if torch.is_grad_enabled() else size.div_(size + self.epsilon)

    def __call__(self, g: Tensor, y: Tensor) -> Tensor:
        """The stand-in for g."""
        return into(self.factor(y), g)


@dataclasses.dataclass(eq=False)
class Saved:
    """A tensor that a backward pass needs as it is now, also where the model goes on to write into its memory."""

    tensor: Any


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


ROOMS = threading.local()  # of the backward pass that runs in this thread


def room_for(like: Tensor, use: Any) -> Tensor | None:
    """Memory in the form of a tensor, for what one step of a backward pass needs and the next one does not.

    A changed copy of each weight, in memory that the system has to hand out anew, costs as much as a layer's pass. None
    where a graph may keep the copy, and for tensors of another kind than a plain one.
    """
    rooms = getattr(ROOMS, "by_use", None)
    plain = type(like) in (Tensor, torch.nn.Parameter) and like.device.type == "cpu" and like.layout == torch.strided
    if rooms is None or torch.is_grad_enabled() or not plain or torch_private.is_batched(like):
        return None
    if not like.is_contiguous():  # a copy has the strides of the original
        return None
    room = rooms.get((use, like.dtype))
    if room is None or len(room) < like.numel():
        rooms[use, like.dtype] = room = torch.empty(like.numel(), dtype=like.dtype, device="cpu")
    return room[: like.numel()].view(like.shape)


class Flow:
    """Whether the backward pass that runs now carries relevance, and the tensors that it needs.

    One object per attribution call: a second derivative runs through the same graph later, with `active` off. Without
    one (not `differentiable`) a true gradient never runs, and each step once, or once for each target (`repeated`).
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
        rooms, ROOMS.by_use = getattr(ROOMS, "by_use", None), {}
        try:
            yield
        finally:
            self.active, ROOMS.by_use = before, rooms  # a pass that is computed again may lie inside another

    def save(self, x: Tensor | None) -> Saved:
        """Keep a tensor for the backward pass. It is copied only if `before_write` tells that it is about to change.

        So the result of a step may share the memory of what the step saves, unless torch saves it, too: see `own`.
        """
        saved = Saved(x)
        if x is not None:
            self._saved[_memory(x)].append(weakref.ref(saved))
        return saved

    def own(self, y: Tensor) -> Tensor:
        """A result that the model may write into, while torch keeps the original if it saved it."""
        return y.clone() if self.differentiable else y

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

    def stopped(self, value: Any) -> Any:
        """A value that is a constant for the relevance, where it is a tensor."""
        return Stop.apply(value, self, lambda _g: ()) if isinstance(value, Tensor) else value

    def ruled_by(self, rule: Callable[..., Tensor], x: Tensor, y: Tensor, *parameters: Tensor | None) -> Tensor:
        """The output y of a layer whose input gets its relevance by ``rule(x, y, R / y, *parameters) -> R_in / x``."""
        way = lambda g, x, y, *parameters: (rule(x, y, g, *parameters),)  # noqa: E731
        return Ruled.apply(y, self, way, x, y, *parameters)  # type: ignore[no-any-return]

    def read_at(self, y: Tensor, leaf: Tensor) -> Tensor:
        """y, whose relevance arrives at a leaf tensor, where it is read."""
        return Step.apply(y, self, lambda g, _leaf: (g,), leaf)  # type: ignore[no-any-return]

    def branched(self, y: Tensor, branch: Tensor) -> Tensor:
        """y, whose relevance goes the way of y and of a branch, each in full."""
        return Step.apply(y, self, lambda g, _y, _branch: (g, g), y, branch)  # type: ignore[no-any-return]

    def handed_on(self, x: Tensor, y: Tensor, identity: bool = False) -> Tensor:
        """The result y = f(x), entry by entry: x gets the relevance of y, R_in = R_out.

        `identity` says that where y is x, f is the identity around x, too: the factor y / x is 1 and has no derivative.
        """

        def way(g: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor]:
            if x.dtype == torch.float16 or x.is_complex() or y.is_complex():  # in half of the range y / x may overflow
                return (per_unit(relevance_of(g, y), x),)
            # Exactly 1 where y is x, so that branches with opposite g, however large, cancel: x - relu(x).
            factor = nonzero(y) / nonzero(x)
            if identity and torch.is_grad_enabled():  # the two parts of its derivative cancel up to rounding alone
                factor = factor.where(y != x, 1)
            return (g * factor,)

        return Step.apply(self.own(y), self, way, x, y)  # type: ignore[no-any-return]

    def fraction_of(self, x: Tensor, fraction: float | Tensor) -> Tensor:
        """x, to which the given fraction of the relevance is handed on."""
        return Step.apply(x, self, lambda g, _x: (g * fraction,), x)  # type: ignore[no-any-return]

    def damped(self, y: Tensor, damp: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The output y of an operation that is linear in its input; `damp(g, y)` stands for R / y = g on the way back.

        This is zennit's Epsilon and Norm: R_in = x * (dy/dx)^T (R_out / (y + epsilon * sign(y))).
        """
        return Step.apply(y, self, lambda g, y: (damp(g, y),), y)  # type: ignore[no-any-return]


def _memory(x: Tensor) -> int:
    return dense_parts(torch_private.batch_of(x))[0].untyped_storage().data_ptr()


class Step(RelevanceStep):
    """y for the forward pass and for true gradients; its relevance goes to some operands, as `way` says.

    ``way(g, *operands)`` returns, for g = R / y, the R / x of each operand x, as far as they get any.
    """

    @staticmethod
    def forward(y: Tensor, flow: Flow, way: Way, *operands: Tensor | None) -> Tensor:  # noqa: ARG004, D102
        return y.detach()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:  # noqa: ARG004, D102
        _, ctx.flow, ctx.way, *operands = inputs
        ctx.operands = [ctx.flow.save(x) for x in operands]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        shares: Sequence[Tensor | None] = ()
        if ctx.flow.active:
            operands = [saved.tensor for saved in ctx.operands]
            ctx.flow.release(*ctx.operands)
            with torch_private.DisableTorchFunction():
                shares = ctx.way(*grads, *operands)
        gradient = None if ctx.flow.active else grads[0]
        return gradient, None, None, *shares, *[None] * (len(ctx.operands) - len(shares))


class Stop(Step):
    """No relevance reaches y: a frozen scale, an attention weight."""


class WholeStep(Step):
    """A step whose way looks at more than one entry."""

    ELEMENTWISE = False


class Ruled(WholeStep):
    """y of a layer with a rule of its own."""

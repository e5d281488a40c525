"""The forward passes on input and baseline, side by side: every operation gets its multiplier in the backward pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary

from xaikit.core import torch_private
from xaikit.core.errors import UnsupportedOperationError
from xaikit.core.torch_private import tree_iter, tree_map_only
from xaikit.explainers.deep_lift.references import PairedCall, References
from xaikit.explainers.lrp.flow import Flow
from xaikit.explainers.lrp.graph import depends, operations_before
from xaikit.explainers.lrp.operations import refuse_derivatives
from xaikit.torch_ops import calling_module, computed, operation_name, positional, writes
from xaikit.torch_ops.kinds import BOOKKEEPING, CREATES, WHY_NONE

TENSOR_PROPERTIES = ("T", "mT", "H", "mH", "real", "imag", "data")
QUESTIONS = {"__bool__", "is_nonzero", "equal", "allclose", "__index__", "__len__"}  # they decide the way that is taken
ARRAYS = ("numpy", "__array__")
NUMBERS = {"item", "tolist", *ARRAYS, "__float__", "__int__"}

# Gets the call, the tensors for the input, those for the baseline, the two results, and what flows back to the result.
MultiplierRule = Callable[[PairedCall, list[Tensor], list[Tensor], Tensor, Tensor, Tensor], Sequence[Tensor | None]]
PairHandler = Callable[["SideBySide", str, PairedCall], Any]


class Multiplied(torch.autograd.Function):
    """y for the forward pass and for true gradients; its operands get what the rule makes of what flows back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, rule: Callable[[Tensor], Any], flow: Flow, *operands: Tensor) -> Tensor:  # noqa: ARG004, D102
        ctx.rule, ctx.flow = rule, flow
        return y.clone() if flow.differentiable else y.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        operands = len(ctx.needs_input_grad) - 3
        if not ctx.flow.active:
            return grads[0], None, None, *(None,) * operands
        return None, None, None, *ctx.rule(grads[0])


class SideBySide(TorchFunctionMode):
    """Runs each operation of a forward pass for the input and for the baseline.

    Args:
        flow: the switch between multipliers and true gradient.
        handler_of: what runs an operation by its name; None where the gradient is its multiplier.
    """

    def __init__(self, flow: Flow, handler_of: Callable[[str, PairedCall], PairHandler | None]) -> None:
        super().__init__()
        self.flow, self.handler_of = flow, handler_of
        self.references = References()
        self.sources: list[Tensor] = []
        self.unknown: dict[str, str] = {}
        self._scales: Any = WeakIdKeyDictionary()  # reciprocals, with the version of their memory
        self._seen: Any = WeakIdKeyDictionary()  # tensors with a graph that do not depend on the explained input

    def watched(self, inputs: Sequence[Tensor], baselines: Sequence[Tensor]) -> list[Tensor]:
        """The inputs as the model gets them: copies, into which it may write.

        Args:
            inputs: leaves.
            baselines: of the same shapes.
        """
        copies = []
        for x, b in zip(inputs, baselines, strict=True):
            self.sources.append(x)
            copy = x.clone()
            reference = torch.empty_like(copy.detach()).copy_(b if self.flow.differentiable else b.detach())
            copies.append(self.references.pair(copy, reference, "the input"))
        return copies

    def check(self, output: Tensor) -> None:
        """Refuse a result that depends on the input by operations that cannot be seen.

        Args:
            output: what the pass gave.

        Raises:
            UnsupportedOperationError: naming them.
        """
        if self.references.of(output) is None:
            self._refuse_hidden([output])

    # ------------------------------------------------------------------ operations

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, for the baseline too where it depends on the input."""
        refuse_derivatives(func, "DeepLIFT")
        kwargs = kwargs or {}
        if kwargs.get("out") is not None:
            return self._written_out_to(func, args, dict(kwargs))
        name = operation_name(func)
        into = bool(args) and isinstance(args[0], Tensor) and writes(func)
        if into:
            self._before_write(args[0])
        op = PairedCall(func, args, kwargs, self.references)
        for x in op.tensors:
            if self.references.grown(x) and x.grad_fn is not None:
                self.without_rule(x.grad_fn.name())
        if op.is_constant:
            return self._constant(func(*args, **kwargs), op)
        return self._compared(name, op, func, args, kwargs, into)

    def _compared(self, name: str, op: PairedCall, func: Any, args: Any, kwargs: Any, into: bool) -> Any:  # noqa: PLR0913, PLR0917
        why = WHY_NONE.get(name)
        if name == "__get__":
            output = self._property(func.__self__.__name__, op)
        elif name in QUESTIONS or name in NUMBERS:
            output = self._answer(name, op)
        elif name == "register_hook":  # what flows back are multipliers, not for a hook to change
            output = RemovableHandle(OrderedDict())
        elif name == "__deepcopy__":
            output = self._ruled("clone", torch.clone, args[:1], {})
        elif why in (BOOKKEEPING, CREATES):
            output = func(*args, **kwargs)
            if why == CREATES and into:  # drawn once, and written into both
                op.references[0].copy_(args[0].detach())
        else:
            output = self._ruled(name, func, args, kwargs)
        return output

    def _property(self, name: str, op: PairedCall) -> Any:
        if name == "data" and op.moving and torch.is_grad_enabled():
            handler = self.handler_of("detach", op)
            return handler(self, name, op) if handler else None
        return self.native(name, op) if name in TENSOR_PROPERTIES else op.run(op.tensors)

    def _ruled(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        plain, args_, kwargs_, in_place = computed(func, args, kwargs)
        args_, kwargs_ = positional(plain, args_, kwargs_)
        op = PairedCall(plain, args_, kwargs_, self.references)
        if name == "__setitem__" and op.switches:
            op, in_place = op.with_function(_set), True
        flows = bool(op.moving) and torch.is_grad_enabled()
        handler = self.handler_of(name, op) if flows else None
        if handler is None:
            if writes(func) or in_place:
                return self._written(name, PairedCall(func, args, kwargs, self.references), args[0])
            return self.native(name, op)
        if not in_place:
            return handler(self, name, op)
        target = args_[0]
        if self.flow.differentiable:  # autograd may keep what the operation gets: not what is written over
            op = PairedCall(op.function, (self._copied(target), *args_[1:]), kwargs_, self.references)
        output = handler(self, name, op)
        reference = self.references.of(output)
        self._before_write(target)
        self._adopt(target)
        target.copy_(output)
        written = self.references.of(target)
        if written is not None and reference is not None:
            self._quietly(lambda: written.copy_(reference))
        return target

    def _written(self, name: str, op: PairedCall, target: Tensor) -> Any:
        """An operation that writes into its first operand, in both passes."""
        self._before_write(target)
        self._adopt(target)
        op = PairedCall(op.function, op.args, op.kwargs, self.references)
        output = op.run(op.tensors)
        reference = self._quietly(lambda: op.run(op.references))
        return output if output is target or output is None else self.references.pair(output, reference, name)

    def _copied(self, x: Tensor) -> Tensor:
        copy, reference = x.clone(), self.references.of(x)
        if reference is not None:
            self.references.pair(copy, reference.clone(), "a copy")
        return copy

    def _adopt(self, target: Tensor) -> None:
        if self.references.of(target) is None:
            self.references.adopt(target)

    def native(self, name: str, op: PairedCall) -> Any:
        """An operation whose gradient is its multiplier, as it is.

        Args:
            name: of the operation.
            op: the call.
        """
        output = op.run(op.tensors)
        return self.references.pair(output, self._quietly(lambda: op.run(op.references)), name)

    def stepped(self, name: str, op: PairedCall, rule: MultiplierRule) -> Any:
        """An operation with multipliers of its own; of several results each is a step of its own.

        Args:
            name: of the operation.
            op: the call.
            rule: gives the multipliers, applied to what flows back, for each of the moving operands.
        """
        with self.flow.values_only():
            y, ry = op.run(op.tensors), op.run(op.references)
        if isinstance(y, Tensor):
            return self.step(name, op, rule, y, ry)
        parts = iter(
            [
                self.step(name, op.with_function(partial(_part, op.function, k)), rule, y[k], ry[k])
                if y[k].is_floating_point()
                else self.references.pair(y[k], ry[k], name)
                for k in range(len(y))
            ]
        )
        return tree_map_only(Tensor, lambda _: next(parts), y)

    def step(self, name: str, op: PairedCall, rule: MultiplierRule, y: Tensor, ry: Tensor) -> Tensor:  # noqa: PLR0913, PLR0917
        """As `stepped`, where the results are known.

        Args:
            name: of the operation.
            op: the call.
            rule: as for `stepped`.
            y: the result for the input.
            ry: that for the baseline.
        """
        saved = [[self.flow.save(t) for t in tensors] for tensors in (op.tensors, op.references, [y, ry])]

        def applied(g: Tensor) -> Sequence[Tensor | None]:
            x, r, (of_x, of_r) = ([s.tensor for s in places] for places in saved)
            return rule(op, x, r, of_x, of_r, g)

        output = Multiplied.apply(y, applied, self.flow, *(op.tensors[i] for i in op.moving))
        # The model may write into it, and autograd may keep what the operation gave.
        paired: Tensor = self.references.pair(output, ry.clone() if self.flow.differentiable else ry, name)
        return paired

    def scaled(self, output: Tensor) -> Tensor:
        """Note that a result is the reciprocal of something.

        Args:
            output: the result.
        """
        self._scales[output] = torch_private.version_of(output)
        return output

    def is_scale(self, x: Tensor) -> bool:
        """Whether a tensor is the reciprocal of something, with the values that it had then.

        Args:
            x: any tensor.
        """
        return bool(self._scales.get(x, -1) == torch_private.version_of(x))

    def without_rule(self, name: str) -> None:
        """Note an operation that has no rule of its own.

        Args:
            name: of the operation.
        """
        self.unknown.setdefault(name, calling_module() or "")

    # ------------------------------------------------------------------ what cannot be compared

    def _answer(self, name: str, op: PairedCall) -> Any:
        """What the model reads off its tensors, which must not lead it another way for the baseline."""
        answer = op.run([x.detach() for x in op.tensors] if name in ARRAYS else op.tensors)
        if name not in ARRAYS and answer == op.run(op.references):
            return answer
        if name in NUMBERS:
            self.without_rule(f"{name}, numbers read off a tensor")
        else:
            raise UnsupportedOperationError(
                "DeepLIFT compares each step for the input with the same step for the baseline, and the model asks "
                "about its values (an if, a while) and goes another way for the baseline; use integrated_gradients"
            )
        return answer

    def _refuse_hidden(self, tensors: Sequence[Tensor]) -> None:
        for x in tensors:
            if x.grad_fn is None or x in self._seen:
                continue
            if depends(x, self.sources):
                steps = operations_before(x, self.sources)
                raise UnsupportedOperationError(
                    f"DeepLIFT cannot look inside an operation of this model ({steps}: TorchScript, torch.vmap or a "
                    "function of autograd), so there is nothing to compare with the baseline; use integrated_gradients"
                )
            self._seen[x] = True

    def _constant(self, output: Any, op: PairedCall) -> Any:
        """The result of an operation on constants, which may have a graph that leads to the weights."""
        with_graph = [x for x in tree_iter(output) if isinstance(x, Tensor) and x.grad_fn is not None]
        if with_graph:
            self._refuse_hidden(op.tensors)
        self._seen.update((x, True) for x in with_graph)
        return output

    def _before_write(self, x: Tensor) -> None:
        self.flow.before_write(x)
        reference = self.references.of(x)
        if reference is not None:
            self.flow.before_write(reference)

    def _quietly(self, run: Callable[[], Any]) -> Any:
        with self.flow.values_only():
            return run()

    def _written_out_to(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call with `out=`, of which autograd wants no part: its result, copied there."""
        out = kwargs.pop("out")
        result = self.__torch_function__(func, (), args, kwargs)
        several = isinstance(out, (tuple, list))
        for target, value in zip(out, result, strict=True) if several else ((out, result),):
            reference = self.references.of(value)
            self._before_write(target)
            target.resize_(value.shape).copy_(value)
            if reference is not None:
                self.references.pair(target, reference.clone(), operation_name(func))
        return out


def _part(function: Callable[..., Any], k: int, *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)[k]


def _set(x: Tensor, index: Any, value: Any) -> Tensor:
    """What `x[index] = value` makes of x."""
    result = x.clone()
    result[index] = value
    return result

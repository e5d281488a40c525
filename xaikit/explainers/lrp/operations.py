"""Running one operation under a trace: with its rule, or with the gradient as its rule.

In the form R = g * x most kinds of operations need no rule: sums, reshapes, poolings and all else that is linear in its
input, and every homogeneous function (Euler: x * f'(x) = f(x) for ReLU, a norm, a maximum).
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from xaikit.core import torch_private
from xaikit.core.errors import UnsupportedOperationError
from xaikit.core.torch_private import batch_of, tree_map_only
from xaikit.explainers.lrp.factors import passed_on
from xaikit.explainers.lrp.flow import WholeStep, per_unit, relevance_of
from xaikit.explainers.lrp.ledger import counted
from xaikit.explainers.lrp.marks import GATE, PLAIN
from xaikit.explainers.lrp.registry import HANDLERS, USER_RULES, Handler, checked_shares
from xaikit.torch_ops import (
    KINDS,
    WHY_NONE,
    WRITTEN_OUT,
    Kind,
    calling_module,
    computed,
    operation_name,
    plain_name,
    positional,
)
from xaikit.torch_ops.kinds import BOOKKEEPING, CREATES, NO_GRADIENT

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace

AS_GRADIENT = {Kind.STRUCTURE, Kind.LINEAR, Kind.HOMOGENEOUS, Kind.SELECTION, Kind.EMBEDDING}
NEED_NONE = (NO_GRADIENT, CREATES, BOOKKEEPING)
KEEPS_GATES = ("dropout", "mean", "rsub", "interpolate")
# Their result holds the values of their operand, wherever it has its form.
COPIES = {
    "clone", "contiguous", "to", "type", "type_as", "float", "double", "half", "bfloat16", "cpu", "cuda", "dropout",
    "requires_grad", "view",
}  # fmt: skip
DERIVATIVES = (torch.autograd.grad, torch.autograd.backward, Tensor.backward)
SAVES_NOTHING = ("add",)  # the backward pass needs no input
TENSOR_PROPERTIES = ("T", "mT", "H", "mH", "real", "imag")


def apply_rule(trace: Trace, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operation on the explained input, with its rule."""
    name = operation_name(function)
    refuse_derivatives(function)
    if name == "__get__":
        output = function(*args, **kwargs)
        return trace.mark(output, trace.marks[args[0]]) if function.__self__.__name__ in TENSOR_PROPERTIES else output
    if name == "register_hook":  # what flows back is relevance, which is not for a hook on gradients to change
        return RemovableHandle(OrderedDict())
    plain, args_, kwargs_, in_place = computed(function, args, kwargs)
    if name not in USER_RULES and WHY_NONE.get(name) in NEED_NONE:
        steps = WHY_NONE[name] == NO_GRADIENT and not in_place  # torch has no derivative of some, such as //
        with torch.no_grad() if steps else nullcontext():
            return function(*args, **kwargs)
    args_, kwargs_ = positional(plain, args_, kwargs_)
    if in_place:
        trace.flow.before_write(args_[0])
    handler, ledger = _handler(trace, name), trace.ledger
    if ledger is not None and ledger.counts(function, len(trace.marks.among(args, kwargs))):
        entry = f"{plain_name(function)} ({trace.where})" if trace.where else plain_name(function)
        handler = counted(ledger, handler, entry)
    if handler is as_gradient:
        return handler(trace, function, *args, **kwargs)
    if not in_place:
        return handler(trace, plain, *args_, **kwargs_)
    # A rule needs the input as it was: compute beside it, then put the result in its place.
    target = before = args_[0]
    if name not in SAVES_NOTHING:
        before = target.clone()
        if target in trace.marks:
            trace.mark(before, trace.marks[target])
    output = handler(trace, plain, before, *args_[1:], **kwargs_)
    with torch.no_grad() if not output.requires_grad else torch.enable_grad():
        target.copy_(output)
    return trace.marks.set_written(target, trace.marks[output])


def refuse_derivatives(function: Any = None, method: str = "LRP") -> None:
    """Refuse a model that differentiates in its forward pass, as energy models do for their forces.

    Raises:
        UnsupportedOperationError: naming the module and the method that has no rules for it.
    """
    if function in DERIVATIVES or torch_private.is_differentiated():
        raise UnsupportedOperationError(
            f"{method} has no rules for a derivative that the model itself computes in its forward pass, in "
            f"{calling_module()}; use gradient_x_input or integrated_gradients"
        )


def _handler(trace: Trace, name: str) -> Handler:
    if name in USER_RULES:
        return _user_ruled
    if name == "relu":
        return _passing_relu if trace.rules.rectifiers_pass else as_gradient
    if name in WRITTEN_OUT and name not in HANDLERS:
        return written_out
    return HANDLERS.get(name) or HANDLERS.get(KINDS.get(name)) or as_gradient


def as_gradient(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation whose rule is the gradient, or which has no rule and is named in a warning."""
    name = operation_name(function)
    kind, operands = KINDS.get(name), trace.marks.among(args, kwargs)
    marks = [trace.marks[x] for x in operands]
    output = function(*args, **kwargs)
    if name == "__setitem__":
        trace.marks.set_written(args[0])
        return output
    mark = PLAIN
    if name in COPIES and args and operands[0] is args[0] and _is_copy(name, output, args, kwargs):
        mark = marks[0]
    elif (kind in (Kind.STRUCTURE, Kind.SELECTION) or name in KEEPS_GATES) and all(m.gate for m in marks):
        tensors = (a for a in args if isinstance(a, Tensor) and a not in trace.marks)
        constants = [batch_of(a) for a in tensors if a.is_floating_point()]
        mark = GATE if all(bool(((a >= 0) & (a <= 1)).all()) for a in constants) else PLAIN
    if isinstance(output, Tensor) and args and output is args[0]:
        trace.marks.set_written(output, mark)
    else:
        trace.mark(output, mark)
    if kind not in AS_GRADIENT and trace.marks.among(output):
        trace.unknown.setdefault(plain_name(function), trace.where)
    return output


def _is_copy(name: str, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a result holds the values of the first argument in the same form: no cast, no dropout that is on."""
    if name == "dropout" and kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True)):
        return False
    x = args[0]
    same_form = isinstance(output, Tensor) and output.shape == x.shape and output.dtype == x.dtype
    return output is x or (same_form and torch.is_floating_point(x))


def _passing_relu(trace: Trace, function: Any, x: Tensor, **kwargs: Any) -> Tensor:
    """A ReLU that hands on all relevance, R_in = R_out, also at its zeros."""
    with trace.flow.values_only():
        y = function(x, **kwargs)
    return trace.mark(passed_on(trace.flow, x, y, identity=True))


def written_out(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
    """A fused operation as plain ones, each of which finds its rule."""
    with trace:
        return WRITTEN_OUT[operation_name(function)](function, *args, **kwargs)


def _user_ruled(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
    """An operation with a user's rule."""
    user_rule, operands = USER_RULES[operation_name(function)], trace.marks.among(args, kwargs)
    with trace.flow.values_only():
        output = function(*args, **kwargs)

    def way(g: Tensor, y: Tensor, *saved: Tensor) -> Any:
        places = dict(zip(map(id, operands), saved, strict=True))
        args_, kwargs_ = tree_map_only(Tensor, lambda x: places.get(id(x), x), (args, kwargs))
        returned = user_rule(relevance_of(g, y), y, *args_, **kwargs_)
        shares = zip(checked_shares(function, user_rule, returned, operands), saved, strict=True)
        return None, *(None if r is None else per_unit(r, x) for r, x in shares)

    return trace.mark(WholeStep.apply(trace.flow.own(output), trace.flow, way, output, *operands))

"""The table of relevance rules for operations, by the name of the torch function, and how one of them is applied.

In the form R = g * x most operations need no rule: sums, reshapes, poolings and all else that is linear in its input,
and every homogeneous function (Euler: x * f'(x) = f(x) for ReLU, a norm, a maximum). `names` lists them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from xaikit.explainers.lrp.marks import GATE, PLAIN
from xaikit.explainers.lrp.names import AS_GRADIENT, KEEPS_GATES, NO_RELEVANCE

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace

Handler = Callable[..., Any]
HANDLERS: dict[str, Handler] = {}
SAVES_NOTHING = ("add", "__add__")  # the backward pass needs no input
TENSOR_PROPERTIES = ("T", "mT", "H", "mH", "real")


def rule(*names: str) -> Callable[[Handler], Handler]:
    """Make a function the handler ``(trace, func, *args, **kwargs)`` of these operations."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def apply_rule(trace: Trace, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operation on the explained input, with its rule."""
    name = getattr(func, "__name__", str(func))
    if name in ("__get__", "__set__"):
        output = func(*args, **kwargs)
        return trace.mark(output, trace.marks[args[0]]) if func.__self__.__name__ in TENSOR_PROPERTIES else output
    if name in NO_RELEVANCE:
        return func(*args, **kwargs)
    base = out_of_place(name)
    if handler := HANDLERS.get(base):
        return _handled(trace, handler, func, base, args, kwargs)
    live = trace.live(args, kwargs)
    gates = base in KEEPS_GATES and all(trace.gate(t) for t in live)
    output = trace.mark(func(*args, **kwargs), GATE if gates else PLAIN)
    if base not in AS_GRADIENT and trace.live(output if isinstance(output, (tuple, list)) else (output,)):
        trace.unknown.setdefault(name, trace.where)
    if base == "__setitem__":
        trace.mark(args[0])
    return output


def out_of_place(name: str) -> str:
    """The name without the mark of working in place: add_ -> add, __iadd__ -> add."""
    if name in ("__iadd__", "__isub__", "__imul__", "__itruediv__", "__ipow__", "__imatmul__"):
        return f"__{name[3:]}"
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _handled(
    trace: Trace, handler: Handler, func: Any, base: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    name, place = func.__name__, _inplace_position(func)
    inplace = kwargs.get("inplace", place is not None and len(args) > place and args[place])
    if place is not None and inplace:
        kwargs = {k: v for k, v in kwargs.items() if k != "inplace"}
        args = tuple(False if i == place else a for i, a in enumerate(args))
    if base == name and not inplace:
        return handler(trace, func, *args, **kwargs)
    # A rule needs the input as it was: compute beside it, then put the result in its place.
    target = before = args[0]
    if base not in SAVES_NOTHING:
        before = trace.mark(target.clone(), trace.marks[target]) if trace.is_live(target) else target.clone()
    plain = func if base == name else getattr(torch.Tensor, base)
    output = handler(trace, plain, before, *args[1:], **kwargs)
    with torch.no_grad() if not output.requires_grad else torch.enable_grad():
        target.copy_(output)
    return trace.mark(target, trace.marks.get(output, PLAIN))


@functools.cache
def _inplace_position(func: Any) -> int | None:
    """Where a Python function takes `inplace`, if it does."""
    if not inspect.isfunction(func) or not inspect.isfunction(inspect.unwrap(func)):
        return None
    parameters = list(inspect.signature(func).parameters)
    return parameters.index("inplace") if "inplace" in parameters else None


def arguments(signature: str, args: tuple[Any, ...], kwargs: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Arguments by name, for torch functions that have no Python signature."""
    return {**defaults, **dict(zip(signature.split(), args, strict=False)), **kwargs}

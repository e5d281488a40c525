"""The rules of contextual decomposition: one for an operation, or one for all operations of a kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from xaikit.core.errors import UnsupportedOperationError
from xaikit.torch_ops import WRITTEN_OUT, Kind, calling_module, canonical, kind_of, operation_name, plain_name

RuleFunction = Callable[..., Any]
R = TypeVar("R", bound=RuleFunction)

RULES: dict[Any, RuleFunction] = {}
"""By the one name of an operation (`torch_ops.operation_name`), by kind, or by a function that is not torch's."""


def cd_rule(*functions: Callable[..., Any] | str | Kind) -> Callable[[R], R]:
    """Register a rule for operations, in place of any earlier one.

    The rule is called as ``rule(function, *args, **kwargs)`` with a `Decomposed` where the model has a tensor, keyword
    operands in their positions, and returns a `Decomposed` (or what the function returns, if that does not depend on
    the split). All forms of an operation follow it: ``torch.relu``, ``Tensor.relu``, ``F.relu``, ``relu_``.

    Args:
        functions: functions of torch, or any function that hands its call on by ``__torch_function__``; the name of an
            operation; or a `torch_ops.Kind`, for all operations of that kind that have no rule of their own.

    Returns:
        A decorator that registers a function and returns it.

    Example:
        >>> import torch
        >>> from xaikit.explainers.cd import Decomposed, cd_rule
        >>> @cd_rule(torch.trapezoid)
        ... def trapezoid(function, y, *args, dim=-1):  # a linear map: each part by itself
        ...     return y.map_parts(lambda part: function(part, *args, dim=dim))
    """

    def register(rule: R) -> R:
        RULES.update(dict.fromkeys(map(key_of, functions), rule))
        return rule

    return register


def key_of(function: Any) -> Any:
    """The key of a function in `RULES`."""
    if isinstance(function, Kind):
        return function
    if isinstance(function, str):  # with its underscore: an operation that only works in place, such as copy_
        return function if function.endswith("_") and not function.endswith("__") else canonical(function)
    foreign = inspect.isfunction(function) and not function.__module__.startswith("torch")
    return function if foreign else operation_name(function)


def rule_for(function: Any) -> RuleFunction | None:
    """The rule of a function that computes (`torch_ops.computed`), None if it has none."""
    name = operation_name(function)
    rule = RULES.get(name) or RULES.get(function) or WRITTEN_OUT.get(name)
    return rule or RULES.get(kind_of(function))


def rule_in_place(function: Any) -> RuleFunction | None:
    """The rule of an operation that only works in place, such as copy_."""
    name = plain_name(function)
    return RULES.get(name) if name.endswith("_") and not name.endswith("__") else None


def missing_rule(function: Any) -> UnsupportedOperationError:
    """The error for an op without a rule: what it is, where it ran, and the two ways out."""
    name = plain_name(function)
    if isinstance(function, torch.ScriptMethod | torch.ScriptFunction):
        return UnsupportedOperationError(
            f"contextual decomposition cannot look inside a scripted function (`{name}` in {calling_module()}); pass "
            "the model as it was before torch.jit.script or torch.jit.trace"
        )
    return UnsupportedOperationError(
        f"contextual decomposition has no rule for `{name}`, called in {calling_module()}; register one with "
        "@cd_rule(<the function>), or set on_missing='proportional' to split its result as its operand is split"
    )

"""The rules of contextual decomposition, keyed by the torch function they are for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
from torch.nn import functional

from xaikit.core.torch_private import NN_FUNCTIONS

Rule = Callable[..., Any]
R = TypeVar("R", bound=Rule)

NAMESPACES = (torch, torch.Tensor, functional, NN_FUNCTIONS, torch.special, torch.linalg, torch.fft)
RULES: dict[Any, Rule] = {}


def cd_rule(*functions: Callable[..., Any]) -> Callable[[R], R]:
    """Register a rule for torch functions, in place of any earlier one.

    The rule is called as ``rule(function, *args, **kwargs)``, with a `Decomposed` where the model has a tensor, and
    returns a `Decomposed` (or what the function returns, if that does not depend on the split). The in-place form of a
    function (``relu_``) follows the rule of the function.

    Example:
        >>> import torch
        >>> from xaikit.explainers.cd import Decomposed, cd_rule
        >>> @cd_rule(torch.trapezoid)
        ... def trapezoid(function, y, *args, dim=-1):  # a linear map: each part by itself
        ...     return y.map_parts(lambda part: function(part, *args, dim=dim))
    """

    def register(rule: R) -> R:
        for function in functions:
            RULES[function] = rule
        in_place_of.cache_clear()
        return rule

    return register


def named(*names: str, optional: bool = False) -> list[Callable[..., Any]]:
    """Every function of torch that goes by one of the names: torch.relu, Tensor.relu, functional.relu.

    `optional`: the oldest torch that xaikit supports has no such function; then the list is empty there.
    """
    functions = [getattr(namespace, name) for name in names for namespace in NAMESPACES if hasattr(namespace, name)]
    if not functions and not optional:
        raise LookupError(f"torch has no function named {', '.join(names)}")
    return functions


@cache
def in_place_of(function: Any) -> Any | None:
    """The function whose result an in-place function writes into its first operand; None for any other function."""
    name = getattr(function, "__name__", "")
    if name.startswith("__i") and name.endswith("__"):
        base = f"__{name[3:]}"
    elif name.endswith("_") and not name.endswith("__"):
        base = name[:-1]
    else:
        return None
    for namespace in NAMESPACES:
        candidate = getattr(namespace, base, None)
        if candidate is not None and candidate in RULES:
            return candidate
    return None

"""The tables of relevance rules for operations, by name and by kind, and the way for users to add to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.torch_ops import Kind, operation_name, plain_name

Handler = Callable[..., Any]
UserRule = TypeVar("UserRule", bound=Callable[..., Any])
HANDLERS: dict[str | Kind | None, Handler] = {}
USER_RULES: dict[str, Callable[..., Any]] = {}


def rule(*operations: str | Kind) -> Callable[[Handler], Handler]:
    """Make a function the handler ``(trace, function, *args, **kwargs)`` of operations, by name or by kind."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update(dict.fromkeys(operations, handler))
        return handler

    return register


def lrp_rule(*functions: Callable[..., Any]) -> Callable[[UserRule], UserRule]:
    """Register a relevance rule for torch functions, in place of the one that LRP has for them.

    The rule is called as ``rule(relevance, output, *args, **kwargs)``: the relevance of the output, the output itself,
    and what the model gave to the function. It returns the relevance of the one tensor among the arguments that depends
    on the explained input, or a tuple with one relevance for each such tensor (None for none), each shaped as its
    tensor. It holds for every variant of LRP, for all forms of the function (``torch.exp``, ``Tensor.exp_``), from the
    next call on. Written with torch's operations it can be differentiated as ``create_graph=True`` asks for.

    Args:
        functions: functions of torch, or operators of a library (``torch.ops.library.name``).

    Returns:
        The decorator, which gives the rule back as it is.

    Raises:
        InvalidTypeError: for something that is no function of torch.

    Example:
        >>> import torch
        >>> from xaikit.explainers.lrp import LRPUniformEpsilon, lrp_rule
        >>> @lrp_rule(torch.special.entr)
        ... def entropy(relevance, output, x):
        ...     return relevance  # all of it to the input
    """
    for function in functions:
        if not callable(function) or isinstance(function, type):
            raise InvalidTypeError(
                f"lrp_rule takes functions of torch, such as torch.nn.functional.gelu, not {function!r}"
            )

    def register(user_rule: UserRule) -> UserRule:
        USER_RULES.update((operation_name(function), user_rule) for function in functions)
        return user_rule

    return register


def checked_shares(
    function: Any, user_rule: Callable[..., Any], shares: Any, operands: list[Tensor]
) -> tuple[Any, ...]:
    """What a user's rule returned, one relevance for each operand.

    Raises:
        InvalidInputError: when it returned another number of tensors, or one of another shape.
    """
    shares = shares if isinstance(shares, tuple) else (shares,)
    shapes = [tuple(x.shape) for x in operands]
    returned = [None if r is None else tuple(r.shape) if isinstance(r, Tensor) else type(r).__name__ for r in shares]
    if len(returned) != len(shapes) or any(r not in (None, s) for r, s in zip(returned, shapes, strict=True)):
        name = getattr(user_rule, "__name__", "")
        raise InvalidInputError(
            f"the rule {name!r} for {plain_name(function)} must return relevance of shape "
            f"{', '.join(map(str, shapes))}, as its operands have; it returned {', '.join(map(str, returned))}"
        )
    return shares

"""Arguments bound to positions or names, whatever the form of the call: `torch.mul(x, other=y)` is `torch.mul(x, y)`.

Torch's functions written in C have no signature that Python can read. Their operator schemas tell it
(`torch_private.schemas_named`). Without them keyword arguments stay keywords, and a test in
`tests/unit/torch_ops/test_arguments.py` fails.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from functools import lru_cache
from inspect import Parameter
from typing import Any

from xaikit.core import torch_private
from xaikit.torch_ops.names import canonical, is_in_place_name, plain_name

# Torch also takes NumPy's names, and calls the first operand "input" where its schemas call it "self".
OTHER_NAMES = {
    "self": "input", "x": "input", "x1": "input", "x2": "other", "axis": "dim", "keepdims": "keepdim", "from": "from_"
}  # fmt: skip


@lru_cache(maxsize=2048)
def signatures(function: Any) -> tuple[inspect.Signature, ...]:
    """The overloads of a torch function; none where torch does not tell them."""
    schema = torch_private.schema_of(function)
    if schema is not None:
        return (_of_schema(schema),)
    if inspect.isfunction(function):
        return (inspect.signature(function),)
    name = plain_name(function)
    names = dict.fromkeys((name.strip("_") if is_in_place_name(name) else name, canonical(name)))
    schemas = [s for n in names for s in torch_private.schemas_named(n)]
    with_tensor = [s for s in schemas if "Tensor" in str(s).partition("->")[0] and not s.overload_name.endswith("out")]
    return tuple(_of_schema(s) for s in with_tensor)


def _of_schema(schema: Any) -> inspect.Signature:
    def parameter(argument: Any) -> Parameter:
        kind = Parameter.KEYWORD_ONLY if argument.kwarg_only else Parameter.POSITIONAL_OR_KEYWORD
        default = argument.default_value if argument.has_default_value() else Parameter.empty
        return Parameter(OTHER_NAMES.get(argument.name, argument.name), kind, default=default)

    return inspect.Signature(list(map(parameter, schema.arguments)))


def _bound(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments | None:
    """The arguments of a call, bound to the first overload that has every parameter which the call names."""
    for signature in signatures(function):
        names = {k: k if k in signature.parameters else OTHER_NAMES.get(k, k) for k in kwargs}
        with suppress(TypeError):
            return signature.bind_partial(*args, **{names[k]: v for k, v in kwargs.items()})
    return None


@lru_cache(maxsize=2048)
def _first(function: Any) -> tuple[list[str], dict[str, Any]]:
    """The names that the first overload of a function has for its positions, and its defaults."""
    parameters = signatures(function)[0].parameters.values()
    names = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY]
    return names, {p.name: p.default for p in parameters if p.default is not p.empty}


def positional(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with its keyword arguments in their positions, as far as no position before them stays open.

    Args:
        function: what is called.
        args: its arguments by position.
        kwargs: its arguments by name.

    Returns:
        The arguments by position, and those that still go by name.
    """
    bound = _bound(function, args, kwargs) if kwargs else None
    return (args, kwargs) if bound is None else (bound.args, bound.kwargs)


def by_name(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names of the parameters, with defaults for those that the call leaves out.

    The first operand of functions written in C goes by ``"input"``.

    Args:
        function: what is called.
        args: its arguments by position.
        kwargs: its arguments by name.
    """
    names, defaults = _first(function)
    if not kwargs and len(args) <= len(names):  # so do most calls; to bind them takes three times as long
        return {**defaults, **dict(zip(names, args, strict=False))}
    bound = _bound(function, args, kwargs) or signatures(function)[0].bind_partial(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments

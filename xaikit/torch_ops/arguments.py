"""Arguments bound to positions or names, whatever the form of the call: `torch.mul(x, other=y)` is `torch.mul(x, y)`.

Torch's functions written in C have no signature that Python can read. Their operator schemas tell it
(`torch_private.schemas_named`). Without them keyword arguments stay keywords, and a test in
`tests/unit/torch_ops/test_arguments.py` fails.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from xaikit.core import torch_private
from xaikit.torch_ops.names import canonical, is_in_place_name, plain_name

# Torch also takes NumPy's names, and calls the first operand "input" where its schemas call it "self".
SCHEMA_NAMES = {"input": "self", "x": "self", "x1": "self", "x2": "other", "axis": "dim", "keepdims": "keepdim"}


@dataclass(frozen=True)
class Signature:
    """The parameters of one overload of a torch function.

    Attributes:
        positional: names of the parameters that can be given by position, in their order.
        keywords: names of those that cannot.
        defaults: values of the parameters that may be left out.
    """

    positional: tuple[str, ...]
    keywords: frozenset[str]
    defaults: dict[str, Any]

    def own_name(self, keyword: str) -> str | None:
        """The name of the parameter that a call names `keyword`; None if there is none."""
        for name in (keyword, SCHEMA_NAMES.get(keyword)):
            if name in self.positional or name in self.keywords:
                return name
        return None


@lru_cache(maxsize=2048)
def signatures(function: Any) -> tuple[Signature, ...]:
    """The overloads of a torch function; none where torch does not tell them."""
    schema = torch_private.schema_of(function)
    if schema is not None:
        return (_of_schema(schema),)
    if inspect.isfunction(function):
        return (_of_python(function),)
    name = plain_name(function)
    names = dict.fromkeys((name.strip("_") if is_in_place_name(name) else name, canonical(name)))
    schemas = [s for n in names for s in torch_private.schemas_named(n)]
    with_tensor = [s for s in schemas if "Tensor" in str(s).partition("->")[0] and not s.overload_name.endswith("out")]
    return tuple(_of_schema(s) for s in with_tensor)


def _of_schema(schema: Any) -> Signature:
    arguments = list(schema.arguments)
    return Signature(
        tuple(a.name for a in arguments if not a.kwarg_only),
        frozenset(a.name for a in arguments if a.kwarg_only),
        {a.name: a.default_value for a in arguments if a.has_default_value()},
    )


def _of_python(function: Any) -> Signature:
    parameters = inspect.signature(function).parameters.values()
    by_position = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return Signature(
        tuple(p.name for p in parameters if p.kind in by_position),
        frozenset(p.name for p in parameters if p.kind is p.KEYWORD_ONLY),
        {p.name: p.default for p in parameters if p.default is not p.empty},
    )


def positional(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call with its keyword arguments in their positions, as far as no position before them stays open.

    Args:
        function: what is called.
        args: its arguments by position.
        kwargs: its arguments by name.

    Returns:
        The arguments by position, and those that still go by name.
    """
    if not kwargs:
        return args, kwargs
    signature = _fitting(signatures(function), args, kwargs)
    if signature is None:
        return args, kwargs
    bound = {signature.own_name(k): (k, v) for k, v in kwargs.items()}
    moved, by_name = list(args), dict(kwargs)
    for name in signature.positional[len(args) :]:
        if name not in bound:
            break
        keyword, value = bound[name]
        moved.append(value)
        del by_name[keyword]
    return tuple(moved), by_name


def by_name(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by the names of the parameters, with defaults for those that the call leaves out.

    The first operand of functions written in C goes by ``"input"``.

    Args:
        function: what is called.
        args: its arguments by position.
        kwargs: its arguments by name.
    """
    overloads = signatures(function)
    signature = _fitting(overloads, args, kwargs) or overloads[0]
    values = {**signature.defaults, **dict(zip(signature.positional, args, strict=False))}
    values.update({signature.own_name(k) or k: v for k, v in kwargs.items()})
    if "self" in values:
        values["input"] = values.pop("self")
    return values


def _fitting(overloads: tuple[Signature, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature | None:
    """The first overload that has every parameter which the call names."""
    for signature in overloads:
        names = [signature.own_name(k) for k in kwargs]
        behind = signature.positional[len(args) :]
        if len(args) <= len(signature.positional) and all(n in behind or n in signature.keywords for n in names):
            return signature
    return None

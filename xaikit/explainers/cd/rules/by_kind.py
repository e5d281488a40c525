"""Rules for all operations of a kind that have no rule of their own."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from xaikit.core.process_wide import warnings_ignored
from xaikit.core.torch_private import tree_iter, tree_map_only
from xaikit.explainers.cd.constants import add_constant, add_graph_constant, with_weights
from xaikit.explainers.cd.decomposed import Decomposed, on_total, with_parts
from xaikit.explainers.cd.memory import memory_of
from xaikit.explainers.cd.registry import cd_rule, missing_rule
from xaikit.explainers.cd.shares import ShareLostError, is_uniform
from xaikit.torch_ops import Kind, kind_of, operation_name
from xaikit.torch_ops.kinds import NUMERATORS, degree_of


class JointCall:
    """A call with several tensors of numbers, some of them decomposed, run on other tensors in their places."""

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function, self.arguments = function, (args, kwargs)
        self.tensors = [v for v in tree_iter(self.arguments) if isinstance(v, Tensor) and _of_numbers(v)]
        self.decomposed = [v for v in self.tensors if isinstance(v, Decomposed)]

    def on(self, tensors: Any) -> Any:
        """The function on other tensors, in the order of `tensors`; whole numbers are those of the total."""
        others = iter(tensors)
        args, kwargs = tree_map_only(
            Tensor, lambda value: next(others) if _of_numbers(value) else on_total(value), self.arguments
        )
        return self.function(*args, **kwargs)

    def on_each(self, values: list[Any], change: Any = None) -> Any:
        """The result of `change` (by default the function) on each part of each mask; plain tensors are unchanged."""
        count = 2 * self.decomposed[0].parts.shape[1]
        rows = [v.parts.flatten(0, 1).unbind() if isinstance(v, Decomposed) else (v,) * count for v in values]
        return self._joined([(change or self.on)(row) for row in zip(*rows, strict=True)])

    def _joined(self, results: list[Any]) -> Any:
        if isinstance(results[0], tuple | list):
            return type(results[0])(self._joined(list(column)) for column in zip(*results, strict=True))
        if not isinstance(results[0], Tensor) or not _of_numbers(results[0]):
            raise missing_rule(self.function)
        like = self.decomposed[0]
        parts = torch.stack(results).unflatten(0, like.parts.shape[:2])
        value = like.like(parts, self._share(results[0].shape))
        memory = memory_of(results[0])
        value.is_copied_view = any(memory == memory_of(v.parts) for v in self.decomposed)
        return value

    def _share(self, shape: torch.Size) -> Tensor:
        """The undecided share of the result: one for each sample stays with the places of the first operand."""
        first = self.tensors[0]
        if all(is_uniform(value.share) for value in self.decomposed):
            different = {id(value.share): value.share for value in self.decomposed}
            return torch.stack([*different.values()]).mean(0) if len(different) > 1 else self.decomposed[0].share
        if not isinstance(first, Decomposed) or is_uniform(first.share):
            raise ShareLostError(self.decomposed[0].shape, shape)
        if first.dim() == len(shape):
            return first.share
        if not shape:
            return first.share.flatten(1).mean(1)
        varies_by_sample = first.share[0].numel() == len(first) == shape[0]
        if kind_of(self.function) is Kind.STRUCTURE or not varies_by_sample:
            raise ShareLostError(first.shape, shape)
        return first.share.reshape(*first.share.shape[:2], *[1] * (len(shape) - 1))


def _of_numbers(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


@cd_rule(Kind.LINEAR)
def linear(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Each part by itself; other tensors are settings, such as the window of a short-time Fourier transform."""
    call = JointCall(function, args, kwargs)
    if len(call.decomposed) > 1 or operation_name(function) == "segment_reduce":  # which is linear for sums alone
        raise missing_rule(function)
    return call.on_each(call.tensors)


@cd_rule("diff", "scatter_add", "index_add")
def jointly_linear(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear in all tensors together: each part by itself; a constant among them is split by the undecided share."""
    call = JointCall(function, args, kwargs)
    return call.on_each([with_parts(value, call.decomposed[0]) for value in call.tensors])


@cd_rule(Kind.STRUCTURE)
def structure(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear, too, apart from constants that are put in (`index_fill`), which are shared."""
    moved = jointly_linear(function, *args, **kwargs)
    call = JointCall(function, args, kwargs)
    constant = call.on(torch.zeros_like(on_total(value)) for value in call.tensors)
    if not isinstance(moved, Decomposed) or not bool(constant.any()):
        return moved
    return add_graph_constant(moved.like(moved.parts.masked_fill(constant != 0, 0)), constant)


@cd_rule(Kind.PRODUCT)
def product(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear in each of n operands: the mean, over those that are decomposed, of the function on the parts of one.

    For two of them a cross term goes in halves to the parts, as in `products.product`.
    """
    call = JointCall(function, args, kwargs)
    places = [i for i, value in enumerate(call.tensors) if isinstance(value, Decomposed)]
    terms = [call.on_each([v if i == at else on_total(v) for i, v in enumerate(call.tensors)]) for at in places]
    result: Any = sum(terms[1:], terms[0])
    return result if len(terms) == 1 else result * (1 / len(terms))


@cd_rule(Kind.QUOTIENT, Kind.LINEAR_IN_FIRST)
def linear_in_one(function: Any, *args: Any, **kwargs: Any) -> Any:
    """Linear in one operand; what it is divided by, or where it is read, is frozen at the total."""
    index = NUMERATORS.get(operation_name(function), 0)
    frozen = [value if i == index else on_total(value) for i, value in enumerate(args)]
    call = JointCall(function, tuple(frozen), on_total(kwargs))
    return call.on_each(call.tensors) if call.decomposed else call.on(call.tensors)


@functools.cache
def _load_forward_derivatives() -> None:
    """Let torch load its formulas once: it scripts some of them, and warns users that `torch.jit.script` is old."""
    with warnings_ignored("", DeprecationWarning):
        one = torch.ones((), device="cpu")
        torch.func.jvp(torch.neg, (one,), (one,))


@cd_rule(Kind.HOMOGENEOUS, Kind.POWER)
def homogeneous(function: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of degree n, f(a t) = a^n f(t): its derivative at the total, applied to each part, over n (Euler)."""
    call = JointCall(function, args, kwargs)
    degree = degree_of(operation_name(function), *on_total(args), **on_total(kwargs))
    if degree is None:
        raise missing_rule(function)
    totals = tuple(on_total(value) for value in call.tensors)
    value = call.on(totals)

    _load_forward_derivatives()

    def derivative(part: Any) -> Tensor:
        along: Tensor = torch.func.jvp(lambda *tensors: call.on(tensors), totals, tuple(part))[1]
        return torch.where(value == 0, 0, along / degree)  # 0 / 0 at the kink of a norm

    try:
        result = call.on_each([with_parts(value, call.decomposed[0]) for value in call.tensors], derivative)
    except NotImplementedError as unknown:  # torch has no forward derivative of it
        raise missing_rule(function) from unknown
    result.remember_total(value)
    return result


@cd_rule("var_mean", "std_mean")
def moments(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """A spread, by its degree, and a mean, which is linear."""
    spread = getattr(torch, operation_name(function).removesuffix("_mean"))
    call = JointCall(function, (input, *args), kwargs)
    return homogeneous(spread, input, *args, **kwargs), call.on_each([input], lambda part: call.on(part)[1])


@cd_rule("logsumexp")
def soft_maximum(function: Any, input: Decomposed, dim: Any, keepdim: bool = False) -> Any:
    """The softmax weights the parts, and what it adds to their mean is shared as a constant."""
    value = torch.logsumexp(input.total, dim, True)
    mean: Any = with_weights(input, torch.exp(input.total - value)).sum(dim, keepdim)
    return add_constant(mean, function(input.total, dim, keepdim) - mean.total)

"""Elementwise functions and softmax: f(r + s) - f(0) is split between the parts, f(0) is shared as a constant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.explainers.cd.constants import add_constant, constant_step
from xaikit.explainers.cd.decomposed import Decomposed, fractions
from xaikit.explainers.cd.registry import cd_rule, missing_rule
from xaikit.explainers.cd.rules.structure import expand
from xaikit.explainers.cd.shares import ATTENTION_MASK
from xaikit.explainers.cd.steps import SplitStep, after, run, split_gain
from xaikit.torch_ops import Kind, operation_name

EntryFunction = Callable[[Tensor], Tensor]


def activation(
    x: Decomposed, function: EntryFunction, at_zero: Tensor | None = None, *, fixed: bool = True
) -> Decomposed:
    """The rule for an elementwise f: its gain over f(0) is split by `split_gain`, f(0) shared as a constant.

    Without `at_zero` f is asked for f(0). One that is not `fixed` has parameters of its own, for autograd to see.
    """
    at = lambda device: function(torch.zeros(8, dtype=x.dtype, device=device))[0]  # noqa: E731
    device = x.share.device
    # A function without parameters is asked on the CPU whether f(0) is 0, so that no device is waited for.
    zero = (at("cpu") if fixed else at(device)) if at_zero is None else at_zero
    symmetric = x.context.rules.activation == "symmetric"
    if not bool(zero.any()):
        if fixed and not x.dtype.is_complex:  # a fused step writes into tensors of x's own type; |x| is real
            return after(x, SplitStep(function, symmetric))
        of_s = function(x.irrelevant) if symmetric else x.irrelevant
        return x.like(split_gain(function(x.relevant), of_s, function(x.sums), symmetric=symmetric))
    zero = zero if zero.dim() or zero.device == device else at(device)
    of_r, of_s, of_t = function(x.relevant), function(x.irrelevant), function(x.sums)
    parts = split_gain(of_r, of_s, of_t - zero, zero, symmetric=symmetric)
    # f(0) of a vector kernel and of its scalar tail differ in the last bit, so exact zeros are put there by hand
    return add_constant(x.like(torch.where(x.parts == 0, 0, parts)), zero)


LIMITED = ("acos", "asin", "acosh", "atanh", "erfinv", "logit", "log", "log2", "log10", "sqrt", "reciprocal", "lgamma",
           "digamma", "ndtri", "polygamma")  # fmt: skip
"""Functions that are not defined at 0 or on the parts of what they are defined on."""


@cd_rule(Kind.ELEMENTWISE, Kind.GATE, "relu", "leaky_relu", "rrelu", "abs")
def elementwise(function: Any, input: Any, *args: Any, **kwargs: Any) -> Decomposed:
    """Elementwise functions of one tensor."""
    if not isinstance(input, Decomposed) or any(isinstance(value, Decomposed) for value in (*args, *kwargs.values())):
        raise missing_rule(function)
    constants = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim()]
    if constants:
        input = expand(function, input, torch.broadcast_shapes(input.shape, *(value.shape for value in constants)))
        at_zero = function(torch.zeros(input.shape, dtype=input.dtype, device=input.parts.device), *args, **kwargs)
        return activation(input, lambda value: function(value, *args, **kwargs), at_zero)
    if operation_name(function) == "rrelu":  # it draws slopes in training; a decomposition uses the mean slope
        args, kwargs = args[:2], {name: value for name, value in kwargs.items() if name != "training"}
    return activation(input, lambda value: function(value, *args, **kwargs))


@cd_rule(*LIMITED)
def by_proportion(function: Any, input: Decomposed, *args: Any, **kwargs: Any) -> Decomposed:
    """Functions that are not defined on the parts: f(r + s), shared as |r| : |s|."""
    return input.like(fractions(input) * function(input.sums, *args, **kwargs))


@cd_rule("square")
def square(function: Any, input: Decomposed) -> Any:
    """A square: the product of x with itself."""
    return input * input


@cd_rule("clamp", "clamp_min", "clamp_max")
def clamp(function: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """With numbers as limits an activation; with tensors the larger and the smaller of two values."""
    if not any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        return activation(input, lambda value: function(value, *args, **kwargs))
    names = {"clamp_min": ("min",), "clamp_max": ("max",)}.get(operation_name(function), ("min", "max"))
    limits = {**dict(zip(names, args, strict=False)), **kwargs}
    result = input
    if limits.get("min") is not None:
        result = torch.maximum(result, limits["min"])
    return result if limits.get("max") is None else torch.minimum(result, limits["max"])


@cd_rule("prelu")
def prelu(function: Any, input: Decomposed, weight: Tensor) -> Decomposed:
    """PReLU with one slope, or one for each channel."""
    slope = weight if weight.numel() == 1 or input.dim() < 2 else weight.view(-1, *[1] * (input.dim() - 2))
    zero = torch.zeros((), dtype=input.dtype, device="cpu")
    return activation(input, lambda value: torch.where(value > 0, value, value * slope), zero, fixed=False)


@cd_rule("pow", "float_power")
def power(function: Any, input: Any, exponent: Any) -> Any:
    """Whole powers are activations. Of others t^p, all but one factor is frozen; of inverse powers all are."""
    if isinstance(exponent, int | float) and exponent > 0 and exponent == int(exponent):
        return input * input if exponent == 2 else activation(input, lambda value: value**exponent)
    if not isinstance(input, Decomposed):
        return exponential(function, exponent, input)
    if isinstance(exponent, Decomposed):
        raise missing_rule(function)
    total, positive = input.total, torch.as_tensor(exponent > 0, device=input.total.device)
    if not bool(positive.any()):
        return function(total, exponent)
    others = torch.where((total == 0) & positive, 0, function(total, exponent - 1))
    return input * others


@cd_rule("rpow")
def exponential(function: Any, input: Decomposed, base: Any) -> Decomposed:
    """A power with the value as its exponent."""
    if not isinstance(base, Tensor):
        return activation(input, lambda value: torch.pow(base, value))
    input = expand(function, input, torch.broadcast_shapes(input.shape, base.shape))
    return activation(
        input, lambda value: torch.pow(base, value), torch.ones(input.shape, dtype=input.dtype, device="cpu")
    )


@cd_rule("softmax", "softmin")
def softmax(function: Any, input: Decomposed, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
    """The gain over the softmax of zeros is split, that of zeros is shared; masked positions are masked in each.

    An attention mask stands in both parts by halves, so that each part by itself is masked too.
    """
    x: Any = -input if operation_name(function) == "softmin" else input
    axis = (dim if dim is not None else _default_dim(x.dim())) % x.dim()
    dtype = _dtype(args, kwargs)
    masked = x.total <= -0.5 * ATTENTION_MASK
    if bool(masked.any()):
        zeros = torch.where(masked, x.total, 0)
    else:  # one row of zeros will do, but another kernel, with other last bits, serves the last dimension
        row = [size if dim == axis or axis < x.dim() - 1 else 1 for dim, size in enumerate(x.shape)]
        zeros = torch.zeros(row, dtype=x.dtype, device=x.parts.device)
    of_zero = torch.softmax(zeros, axis, dtype=dtype)
    symmetric = x.context.rules.activation == "symmetric"
    if axis == x.dim() - 1 and dtype in (None, x.dtype) and symmetric:
        split = SplitStep(lambda value: torch.softmax(value, -1), at_zero=of_zero)
        constant = constant_step(x, of_zero)
        return after(after(x, split), constant) if x.deferred else run(x, [split, constant])
    of_r, of_s, of_t = (torch.softmax(value, axis + 1, dtype=dtype) for value in (x.relevant, x.irrelevant, x.sums))
    return add_constant(x.like(split_gain(of_r, of_s, of_t - of_zero, of_zero, symmetric=symmetric)), of_zero)


def _dtype(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.dtype | None:
    return next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.dtype)), None)


def _default_dim(ndim: int) -> int:
    return 0 if ndim in (0, 1, 3) else 1


@cd_rule("log_softmax")
def log_softmax(function: Any, input: Decomposed, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
    """The log softmax of the total, shared as the parts of the softmax are."""
    pair = softmax(functional.softmax, input, dim, *args, **kwargs)
    axis = dim if dim is not None else _default_dim(input.dim())
    return pair.like(fractions(pair) * torch.log_softmax(input.total, axis, dtype=_dtype(args, kwargs)))


@cd_rule("normalize")
def normalize(
    function: Any, input: Decomposed, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Decomposed:
    """The quotient x / |x| with the norm frozen at the total."""
    return input.like(input.parts / input.total.norm(p, dim, keepdim=True).clamp_min(eps))

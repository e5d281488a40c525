"""Rules of activations: y = f(x) entry by entry, x gets the relevance of y (identity rule, arXiv:2402.05602)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from xaikit.core.torch_private import batch_of, version_of
from xaikit.explainers.lrp.factors import passed_on
from xaikit.explainers.lrp.flow import per_unit, relevance_of
from xaikit.explainers.lrp.marks import GATE, PLAIN, Mark
from xaikit.explainers.lrp.operations import as_gradient
from xaikit.explainers.lrp.registry import rule
from xaikit.torch_ops import Kind, kind_of, operation_name
from xaikit.torch_ops.kinds import IDENTITY_ON_A_RANGE, degree_of

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


def passed(trace: Trace, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], mark: Mark = PLAIN) -> Any:
    """R_in = R_out, for the one operand that depends on the explained input."""
    operands = trace.marks.among(args, kwargs)
    if not operands:  # what is written without gradients
        return function(*args, **kwargs)
    with trace.flow.values_only():
        output = function(*args, **kwargs)
    if len({id(x) for x in operands}) > 1 or output.shape != operands[0].shape:
        return as_gradient(trace, function, *args, **kwargs)
    identity = operation_name(function) in IDENTITY_ON_A_RANGE
    return trace.mark(passed_on(trace.flow, operands[0], output, identity=identity), mark)


@rule(Kind.ELEMENTWISE, Kind.GATE, "normalize", "local_response_norm", "renorm")
def activation(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
    """R_in = R_out. Normalisations by a norm stand here too: y / x is their frozen scale.

    The output of a gate lies in [0, 1]. Of tanh and erf 1 + y is a gate, as GELU is written by hand.
    """
    if operation_name(function) in ("tanh", "erf"):
        return passed(trace, function, args, kwargs, Mark(odd=True))
    return passed(trace, function, args, kwargs, GATE if kind_of(function) is Kind.GATE else PLAIN)


@rule("softmax", "log_softmax", "softmin")
def softmax(trace: Trace, function: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention weights are a gate, and R_in = R_out.

    For AttnLRP they are a signal, and hand on R_in = x_i * (R_i - s_i * sum_j R_j), which is the gradient.
    """
    mark = Mark(gate=not trace.attn, logits=(x, version_of(batch_of(x))))
    if trace.attn:
        return trace.mark(function(x, *args, **kwargs), mark)
    return passed(trace, function, (x, *args), kwargs, mark)


@rule("pow", "float_power")
def power(trace: Trace, function: Any, x: Any, exponent: Any, *args: Any, **kwargs: Any) -> Any:
    """R_in = R_out for a positive constant power; a negative one is a frozen scale."""
    if not isinstance(exponent, Tensor) and not isinstance(exponent, complex) and exponent < 0:
        return function(trace.flow.stopped(x), exponent, *args, **kwargs)
    return passed(trace, function, (x, exponent, *args), kwargs)


@rule(Kind.POWER)
def homogeneous(trace: Trace, function: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """R_in = x * f'(x) * R_out / (n f(x)), for a function of degree n: x * f'(x) = n * f(x) (Euler)."""
    degree = degree_of(operation_name(function), x, *args, **kwargs)
    if degree is None:
        return as_gradient(trace, function, x, *args, **kwargs)
    return trace.mark(trace.flow.fraction_of(function(x, *args, **kwargs).clone(), 1 / degree))


@rule(Kind.SOFT_SELECTION)
def soft_maximum(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
    """R_in = s * R_out, with the softmax s that is its derivative (Kauffmann et al. 2022, arXiv:1906.07633)."""

    def in_relevance(value: Any) -> Any:
        return trace.flow.damped(value, per_unit) if value in trace.marks else value

    output = function(*map(in_relevance, args), **kwargs)
    return trace.mark(trace.flow.damped(output, relevance_of))


@rule("var_mean", "std_mean")
def moments(trace: Trace, function: Any, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """A spread, of degree 1 or 2, and a mean, which is linear."""
    spread, mean = function(x, *args, **kwargs)
    degree = 2 if operation_name(function) == "var_mean" else 1
    return trace.mark(trace.flow.fraction_of(spread.clone(), 1 / degree)), trace.mark(mean)

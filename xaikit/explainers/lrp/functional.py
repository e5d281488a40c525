"""Relevance rules of activations, products and quotients.

* activation y = f(x): x gets the relevance of y (identity rule, AttnLRP, arXiv:2402.05602);
* product of two signals: half each; a gate (sigmoid, softmax) times a signal: all to the signal (Arras et al. 2017,
  arXiv:1706.07206);
* quotient and reciprocal: the denominator is a frozen scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.explainers.lrp.flow import Output, Pass, Share, Stop
from xaikit.explainers.lrp.marks import GATE, PLAIN, Mark
from xaikit.explainers.lrp.operations import rule

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


def elementwise(trace: Trace, func: Any, x: Tensor, *args: Any, mark: Mark = PLAIN, **kwargs: Any) -> Tensor:
    """An elementwise y = f(x): R_in = R_out."""
    return trace.mark(Pass.apply(x, func(x, *args, **kwargs), trace.flow), mark)


ACTIVATIONS = """
    gelu silu mish elu selu celu relu6 hardtanh hardswish softplus softsign softshrink hardshrink tanhshrink threshold
    logsigmoid log_sigmoid exp expm1 exp2 log log1p log2 log10 sin cos tan sinh cosh asinh atan arctan sinc square sqrt
    clamp clip clamp_min clamp_max local_response_norm normalize
"""


@rule(*ACTIVATIONS.split())
def activation(trace: Trace, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """R_in = R_out. Normalisations by a norm stand here too: y / x is their frozen scale."""
    return elementwise(trace, func, x, *args, **kwargs)


@rule("sigmoid", "hardsigmoid")
def gate(trace: Trace, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """An activation whose output lies in [0, 1]."""
    return elementwise(trace, func, x, *args, mark=GATE, **kwargs)


@rule("tanh", "erf")
def odd(trace: Trace, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """An activation y of which 1 + y is a gate, as GELU is written by hand."""
    return elementwise(trace, func, x, *args, mark=Mark(odd=True), **kwargs)


@rule("softmax", "_softmax", "log_softmax", "softmin")
def softmax(trace: Trace, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention weights are a gate.

    AttnLRP sends relevance through them, R_in = x_i * (R_i - s_i * sum_j R_j), which is the gradient.
    """
    y = func(x, *args, **kwargs)
    if not trace.attn:
        y = Pass.apply(x, y, trace.flow)
    return trace.mark(y, Mark(gate=True, logits=x))


@rule("add", "__add__", "__radd__")
def add(trace: Trace, func: Any, x: Any, y: Any, **kwargs: Any) -> Tensor:
    """A sum of two signals has the rule of zennit's Sum module. 1 + tanh and 1 + erf are gates."""
    live = trace.live((x, y))
    output = func(x, y, **kwargs)
    if len(live) == 2:
        found = trace.rules.of_sum()
        return trace.mark(output if found is None else Output.apply(output, found.damp, trace.flow))
    constant = y if trace.is_live(x) else x
    is_gate = not isinstance(constant, Tensor) and constant == 1 and trace.marks[live[0]].odd
    return trace.mark(output, GATE if is_gate else PLAIN)


@rule("pow", "__pow__", "float_power")
def power(trace: Trace, func: Any, x: Any, exponent: Any, **kwargs: Any) -> Tensor:
    """A positive constant power is an activation, a negative one a reciprocal."""
    if trace.is_live(exponent):
        trace.unknown.setdefault("pow with an exponent that depends on the input", trace.where)
        return trace.mark(func(x, exponent, **kwargs))
    if not isinstance(exponent, Tensor) and exponent < 0:
        return func(Stop.apply(x, trace.flow), exponent, **kwargs)
    return elementwise(trace, func, x, exponent, **kwargs)


@rule("var")
def variance(trace: Trace, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Homogeneous of degree 2: x * f'(x) = 2 f(x)."""
    return trace.mark(func(Share.apply(x, 0.5, trace.flow), *args, **kwargs))


@rule("var_mean", "std_mean")
def moments(trace: Trace, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """A scale, which is frozen, and a mean, which is linear."""
    scale, _ = func(Stop.apply(x, trace.flow), *args, **kwargs)
    _, mean = func(x, *args, **kwargs)
    return scale, trace.mark(mean)


@rule("rsqrt", "reciprocal")
def reciprocal(trace: Trace, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A scale: frozen, a constant for what follows."""
    return func(Stop.apply(x, trace.flow), *args, **kwargs)


@rule("div", "__truediv__", "__rtruediv__", "__rdiv__", "true_divide", "divide")
def quotient(trace: Trace, func: Any, x: Any, y: Any, **kwargs: Any) -> Tensor:
    """The denominator is a frozen scale."""
    above, below = (y, x) if func.__name__ in ("__rtruediv__", "__rdiv__") else (x, y)
    frozen = Stop.apply(below, trace.flow) if trace.is_live(below) else below
    output = func(frozen, above, **kwargs) if above is y else func(above, frozen, **kwargs)
    return trace.mark(output, GATE if trace.gate(above) else PLAIN) if trace.is_live(above) else output


def shared(trace: Trace, factors: list[Any]) -> tuple[list[Any], Mark]:
    """The factors of a product, each set to take its share of the relevance, and the mark of the product."""
    live = trace.live(factors)
    signals = live if trace.attn else [t for t in live if not trace.gate(t)]
    mark = GATE if all(trace.gate(t) for t in live) else PLAIN
    if len(live) < 2:
        return factors, mark
    takers = signals or live

    def share(t: Any) -> Any:
        if not trace.is_live(t):
            return t
        if not any(t is taker for taker in takers):
            return Stop.apply(t, trace.flow)
        return t if len(takers) == 1 else Share.apply(t, 1 / len(takers), trace.flow)

    return [share(t) for t in factors], mark


@rule("mul", "__mul__", "__rmul__", "multiply", "bmm", "mm", "mv", "dot", "outer", "vdot", "inner", "bilinear", "ger")
def product(trace: Trace, func: Any, x: Any, y: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Relevance to the signals in equal shares, to gates only among themselves."""
    (x, y), mark = shared(trace, [x, y])
    return trace.mark(func(x, y, *args, **kwargs), mark)


@rule("einsum")
def einsum(trace: Trace, func: Any, equation: str, *operands: Any) -> Tensor:
    """A product of all operands."""
    flat = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else list(operands)
    flat, mark = shared(trace, flat)
    return trace.mark(func(equation, *flat), mark)


@rule("addcmul")
def addcmul(trace: Trace, func: Any, x: Any, a: Any, b: Any, **kwargs: Any) -> Tensor:
    """A sum with a product: x + value * a * b."""
    (a, b), _ = shared(trace, [a, b])
    return trace.mark(func(x, a, b, **kwargs))


@rule("addcdiv")
def addcdiv(trace: Trace, func: Any, x: Any, a: Any, b: Any, **kwargs: Any) -> Tensor:
    """A sum with a quotient: x + value * a / b."""
    return trace.mark(func(x, a, Stop.apply(b, trace.flow) if trace.is_live(b) else b, **kwargs))


@rule("baddbmm")
def baddbmm(trace: Trace, func: Any, x: Any, a: Any, b: Any, **kwargs: Any) -> Tensor:
    """A sum with a product: beta * x + alpha * a @ b."""
    (a, b), _ = shared(trace, [a, b])
    return trace.mark(func(x, a, b, **kwargs))


@rule("glu")
def glu(trace: Trace, _func: Any, x: Tensor, dim: int = -1) -> Tensor:
    """The first half, gated by the sigmoid of the second."""
    signal, control = x.chunk(2, dim)
    gated = Pass.apply(control, torch.sigmoid(control), trace.flow)
    factors, _ = shared(trace, [trace.mark(signal), trace.mark(gated, GATE)])
    return trace.mark(factors[0] * factors[1])


@rule("atan2", "hypot", "logaddexp", "logsumexp", "prod", "cumprod", "det", "inverse")
def unknown(trace: Trace, func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """Named in a warning: the plain gradient does not conserve relevance here."""
    trace.unknown.setdefault(func.__name__, trace.where)
    return trace.mark(func(*args, **kwargs))

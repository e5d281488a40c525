"""Rules of sums, products and quotients.

* sum of two signals: R_in = x * R_out / (x + y);
* product of two signals: half each; a gate (sigmoid, softmax) times a signal: all to the signal (Arras et al. 2017,
  arXiv:1706.07206);
* quotient, reciprocal, sampling: the denominator, and where it is sampled, is frozen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core.torch_private import tree_iter, tree_map_only
from xaikit.explainers.lrp.factors import damped_output, in_part, product_of_two
from xaikit.explainers.lrp.marks import GATE, PLAIN, Mark
from xaikit.explainers.lrp.registry import rule
from xaikit.torch_ops import Kind, kind_of, operation_name
from xaikit.torch_ops.kinds import NUMERATORS

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


@rule(Kind.SUM)
def add(trace: Trace, function: Any, x: Any, y: Any, *args: Any, **kwargs: Any) -> Tensor:
    """A sum of two signals has the rule of zennit's Sum module. 1 + tanh and 1 + erf are gates."""
    signals = trace.marks.among((x, y))
    output = function(x, y, *args, **kwargs)
    if len(signals) == 2:
        damp = trace.rules.of_sum().damp
        return trace.mark(output if damp is None else damped_output(trace.flow, output, damp))
    constant = y if x in trace.marks else x
    is_gate = not isinstance(constant, Tensor) and constant == 1 and trace.marks[signals[0]].odd
    return trace.mark(output, GATE if is_gate else PLAIN)


def shared(trace: Trace, factors: list[Any]) -> tuple[list[Any], Mark]:
    """The factors of a product, each set to take its share of the relevance, and the mark of the product."""
    takers, mark = _takers(trace, factors)

    def share(t: Any) -> Any:
        if t not in trace.marks:
            return t
        if not any(t is taker for taker in takers):
            return trace.flow.stopped(t)
        return t if len(takers) == 1 else in_part(trace.flow, t, 1 / len(takers))

    return [share(t) for t in factors], mark


def _takers(trace: Trace, factors: list[Any]) -> tuple[list[Any], Mark]:
    """The factors of a product that take its relevance, and the mark of the product."""
    tracked = [t for t in factors if t in trace.marks]
    signals = [t for t in tracked if not trace.marks[t].gate]
    return signals or tracked, PLAIN if signals else GATE


@rule(Kind.PRODUCT)
def product(trace: Trace, function: Any, *operands: Any, **kwargs: Any) -> Tensor:
    """Relevance to the signals in equal shares, to gates only among themselves."""
    if operation_name(function) in ("mul", "rmul") and not kwargs and all(isinstance(t, Tensor) for t in operands):
        takers, mark = _takers(trace, list(operands))
        joined = product_of_two(trace.flow, operands[0], operands[1], takers)
        if joined is not None:
            return trace.mark(joined, mark)
    factors, mark = shared(trace, [t for t in tree_iter(operands) if isinstance(t, Tensor)])
    shares = iter(factors)  # the operands may stand in a list (einsum, chain_matmul)
    return trace.mark(function(*tree_map_only(Tensor, lambda _: next(shares), operands), **kwargs), mark)


@rule(Kind.QUOTIENT, Kind.SCALE, Kind.LINEAR_IN_FIRST)
def frozen(trace: Trace, function: Any, *operands: Any, **kwargs: Any) -> Any:
    """R_in = R_out for what is divided, or read; what it is divided by, and where it is read, is frozen: 1 / x, too."""
    if kwargs.get("rounding_mode") is not None:
        with torch.no_grad():
            return function(*operands, **kwargs)
    kind = kind_of(function)
    index = 0 if kind is Kind.LINEAR_IN_FIRST else NUMERATORS.get(operation_name(function))
    constants = (x if i == index else trace.flow.stopped(x) for i, x in enumerate(operands))
    output = function(*constants, **{k: trace.flow.stopped(v) for k, v in kwargs.items()})
    if index is None or operands[index] not in trace.marks:
        return output
    return trace.mark(output, GATE if kind is Kind.QUOTIENT and trace.marks[operands[index]].gate else PLAIN)

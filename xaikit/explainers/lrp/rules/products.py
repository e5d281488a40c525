"""Rules of products and quotients.

* product of two signals: half each; a gate (sigmoid, softmax) times a signal: all to the signal (Arras et al. 2017,
  arXiv:1706.07206);
* quotient: the denominator is a frozen scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core.torch_private import tree_iter, tree_map_only
from xaikit.explainers.lrp.factors import in_part, product_of_two
from xaikit.explainers.lrp.flow import stopped
from xaikit.explainers.lrp.marks import GATE, PLAIN, Mark
from xaikit.explainers.lrp.registry import rule
from xaikit.torch_ops import Kind, operation_name
from xaikit.torch_ops.kinds import NUMERATORS

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


ENTRYWISE = ("mul", "rmul")


def shared(trace: Trace, factors: list[Any]) -> tuple[list[Any], Mark]:
    """The factors of a product, each set to take its share of the relevance, and the mark of the product."""
    takers, mark = _takers(trace, factors)

    def share(t: Any) -> Any:
        if t not in trace.marks:
            return t
        if not any(t is taker for taker in takers):
            return stopped(trace.flow, t)
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
    if operation_name(function) in ENTRYWISE and not kwargs and all(isinstance(t, Tensor) for t in operands):
        takers, mark = _takers(trace, list(operands))
        joined = product_of_two(trace.flow, operands[0], operands[1], takers)
        if joined is not None:
            return trace.mark(joined, mark)
    factors, mark = shared(trace, [t for t in tree_iter(operands) if isinstance(t, Tensor)])
    shares = iter(factors)  # the operands may stand in a list (einsum, chain_matmul)
    return trace.mark(function(*tree_map_only(Tensor, lambda _: next(shares), operands), **kwargs), mark)


@rule(Kind.QUOTIENT)
def quotient(trace: Trace, function: Any, *operands: Any, **kwargs: Any) -> Any:
    """R_in = R_out for what is divided; what it is divided by is a frozen scale."""
    if kwargs.get("rounding_mode") is not None:
        with torch.no_grad():
            return function(*operands, **kwargs)
    index = NUMERATORS[operation_name(function)]
    frozen = (x if i == index else stopped(trace.flow, x) for i, x in enumerate(operands))
    numerator, output = operands[index], function(*frozen, **kwargs)
    if numerator not in trace.marks:
        return output
    return trace.mark(output, GATE if trace.marks[numerator].gate else PLAIN)

"""The rule of a sum of two signals: R_in = x * R_out / (x + y), and the gates that are written as sums."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from xaikit.explainers.lrp.factors import damped_output
from xaikit.explainers.lrp.marks import GATE, PLAIN
from xaikit.explainers.lrp.registry import rule
from xaikit.torch_ops import Kind

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

"""Ledger: the relevance that each operation receives and passes on during one backward pass."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core import torch_private
from xaikit.core.torch_private import tree_iter, tree_map_only
from xaikit.explainers.lrp.flow import Flow, Step, relevance_of
from xaikit.explainers.lrp.operations import apply_rule
from xaikit.explainers.lrp.registry import HANDLERS, USER_RULES
from xaikit.torch_ops import WRITTEN_OUT, kind_of, names_of, operation_name, plain_name, writes
from xaikit.torch_ops.kinds import Kind

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace

# Operations with a bias, a constant or a stabilizer, which may absorb relevance by their rule.
ABSORBING = names_of(Kind.AFFINE, Kind.NORMALISATION, Kind.SUM, Kind.STRUCTURE, Kind.SOFT_SELECTION) | {"sub", "rsub"}
# A fused operation loses what its softmax may lose; where it is written out, each of its parts is counted, too.
FUSED = {"scaled_dot_product_attention"}
TARGET = "the target function"  # where it is not linear, the output does not start with the whole score


def may_absorb(*, attn: bool) -> frozenset[str]:
    """Names of operations that need not conserve relevance; AttnLRP's softmax is one of them."""
    return frozenset(ABSORBING | FUSED | (names_of(Kind.SOFTMAX) if attn else set()))


class Ledger:
    """For each operation, the relevance that it received minus the relevance that it passed on.

    Args:
        excused: names of operations that are not counted. To count an operation keeps its operands in memory.
    """

    def __init__(self, excused: frozenset[str] = frozenset()) -> None:
        self.excused = excused
        self.balance: dict[str, float] = defaultdict(float)
        self.largest = 0.0
        self.first_bad: str | None = None  # where relevance stops being a number
        self.first_nan: str | None = None  # where the model's own values do
        self.scores: Tensor = torch.zeros(0, device="cpu")  # the explained scores
        self.reached: float | None = None  # relevance at the explained layers that no other explained layer feeds
        self.nested = False  # whether one explained layer feeds another

    def layer(self, y: Tensor, leaf: Tensor, *, fed: bool) -> None:
        """Note an explained layer's output, and whether another explained layer feeds it."""
        self.reached = self.reached or 0.0
        if fed:
            self.nested = True
        else:
            leaf.register_hook(functools.partial(self._arrive, y.detach()))

    def _arrive(self, y: Tensor, g: Tensor) -> None:
        self.reached = (self.reached or 0.0) + float(relevance_of(g, y).sum())

    def record(self, entry: str, relevance: float, sign: int) -> None:
        """Add what an operation received (sign +1) or handed on (-1)."""
        if not math.isfinite(relevance) and self.first_bad is None and entry != TARGET:
            self.first_bad = entry
        self.balance[entry] += sign * relevance
        self.largest = max(self.largest, abs(relevance))

    def measure(self, entry: str, relevance: Tensor, sign: int) -> None:
        """Note the relevance that passes on one side of an operation."""
        self.record(entry, float(relevance.sum()), sign)

    def target(self, output: Any, flow: Flow) -> Any:
        """The output or explained head, with a record of the relevance with which a target function lets it start."""
        if any(isinstance(x, Tensor) for x in tree_iter(output)):  # of an object that hides its tensors it is unknown
            self.record(TARGET, float(self.scores.sum()), 1)
        return tree_map_only(Tensor, lambda x: probed(flow, x, self, TARGET, -1), output)

    def lost(self, total: float) -> dict[str, float]:
        """Operations that did not conserve relevance, beyond rounding."""
        rounding = 1e-6 * self.largest
        return {k: v for k, v in self.balance.items() if abs(v) > max(1e-4 * total, rounding)}


class Sizes(Ledger):
    """For each operation, how much relevance it receives and passes on, without the signs."""

    def __init__(self) -> None:
        super().__init__()
        self.received: dict[str, float] = defaultdict(float)
        self.passed_on: dict[str, float] = defaultdict(float)

    def measure(self, entry: str, relevance: Tensor, sign: int) -> None:
        """Note the size of the relevance that passes on one side of an operation."""
        (self.received if sign > 0 else self.passed_on)[entry] += float(relevance.double().abs().sum())

    def largest_growth(self) -> tuple[str, float] | None:
        """The operation that makes most of what it receives, and how many times as much."""
        factors = {k: self.passed_on[k] / size for k, size in self.received.items() if size > 0}
        return max(factors.items(), key=lambda item: item[1], default=None)


def probed(flow: Flow, x: Tensor, ledger: Ledger, entry: str, sign: int) -> Tensor:
    """x, of which the relevance that passes is recorded."""

    def way(g: Tensor, x: Tensor) -> tuple[Tensor]:
        # Scores of -inf are what attention may not see: they get no relevance.
        ledger.measure(entry, relevance_of(g, x if x.is_complex() else x.masked_fill(x == -math.inf, 0)), sign)
        return (g,)

    return Step.apply(flow.own(x), flow, way, x)  # type: ignore[no-any-return]


def _is_linear(trace: Trace, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation conserves relevance by its gradient: a linear one, or a product with constants."""
    kind = kind_of(function)
    return kind is Kind.LINEAR or (kind is Kind.PRODUCT and len(trace.marks.among(args, kwargs)) == 1)


def audited(trace: Trace, ledger: Ledger, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operation with its rule, and record the relevance on both of its sides."""
    name = operation_name(function)
    # What moves entries loses nothing, and gives views, into which the model may write.
    if name in ledger.excused or kind_of(function) is Kind.STRUCTURE or name in ("__get__", "__set__"):
        return apply_rule(trace, function, args, kwargs)
    is_counted_inside = name in WRITTEN_OUT and name not in HANDLERS
    if name not in USER_RULES and (is_counted_inside or (ledger.excused and _is_linear(trace, function, args, kwargs))):
        return apply_rule(trace, function, args, kwargs)
    name = plain_name(function)
    entry = f"{name} ({trace.where})" if trace.where else name

    def probe(value: Any, sign: int) -> Any:
        if value in trace.marks:
            return trace.mark(probed(trace.flow, value, ledger, entry, sign), trace.marks[value])
        if isinstance(value, (tuple, list)):
            items = [probe(v, sign) for v in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return value

    inside = tuple(probe(a, -1) for a in args)
    in_place = bool(inside) and (writes(function) or bool(kwargs.get("inplace")))
    if in_place and inside[0] in trace.marks:  # not in the memory of the original, which autograd may hold
        inside = (trace.mark(inside[0].clone(), trace.marks[inside[0]]), *inside[1:])
    before = torch_private.version_of(inside[0]) if inside and isinstance(inside[0], Tensor) else None
    output = apply_rule(trace, function, inside, {k: probe(v, -1) for k, v in kwargs.items()})
    if not isinstance(output, Tensor):
        return probe(output, 1)
    if ledger.first_nan is None and bool(torch_private.batch_of(output).isnan().any()):
        ledger.first_nan = entry
    if not inside:
        return probe(output, 1)
    logits = trace.marks[output].logits
    if logits is not None and logits[0] is inside[0]:  # not the probe's copy of them
        original = (args[0], torch_private.version_of(torch_private.batch_of(args[0])))
        trace.mark(output, dataclasses.replace(trace.marks[output], logits=original))
    result = probe(output, 1)
    if output is not inside[0] or torch_private.version_of(output) == before:
        return result
    trace.flow.before_write(args[0])  # in place: the original takes the result
    args[0].copy_(result)
    return trace.marks.set_written(args[0], trace.marks[result])

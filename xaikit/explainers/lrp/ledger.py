"""Ledger: the relevance that each operation receives and passes on during one backward pass."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core.torch_private import batch_of, tree_iter, tree_map_only, version_of
from xaikit.explainers.lrp.flow import Flow, Step, relevance_of
from xaikit.explainers.lrp.registry import HANDLERS, USER_RULES, Handler
from xaikit.torch_ops import WRITTEN_OUT, Kind, kind_of, names_of, operation_name

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace

# Operations with a bias, a constant or a stabilizer, which may absorb relevance by their rule. A fused operation loses
# what its softmax may lose; where it is written out, each of its parts is counted, too.
ABSORBING = names_of(Kind.AFFINE, Kind.NORMALISATION, Kind.SUM, Kind.STRUCTURE, Kind.SOFT_SELECTION) | {
    "sub", "rsub", "scaled_dot_product_attention"
}  # fmt: skip
TARGET = "the target function"  # where it is not linear, the output does not start with the whole score


def may_absorb(*, attn: bool) -> frozenset[str]:
    """Names of operations that need not conserve relevance; AttnLRP's softmax is one of them."""
    return ABSORBING | names_of(Kind.SOFTMAX) if attn else ABSORBING


def sizes(relevance: Tensor) -> Tensor:
    """How much relevance there is, without the signs."""
    return relevance.double().abs().sum()


class Ledger:
    """For each operation, the relevance that it received and the relevance that it passed on."""

    def __init__(self, excused: frozenset[str] = frozenset(), amount: Callable[[Tensor], Tensor] = torch.sum) -> None:
        self.excused = excused  # operations that are not counted: to count one keeps its operands in memory
        self.amount = amount  # what is counted of a relevance: its sum, or `sizes`
        self.received: dict[str, float] = defaultdict(float)
        self.passed_on: dict[str, float] = defaultdict(float)
        self.largest = 0.0
        self.first_bad: str | None = None  # where relevance stops being a number
        self.first_nan: str | None = None  # where the model's own values do
        self.scores: Tensor = torch.zeros(0, device="cpu")  # the explained scores
        self.reached: float | None = None  # relevance at the explained layers that no other explained layer feeds
        self.nested = False  # whether one explained layer feeds another

    def layer(self, y: Tensor, leaf: Tensor, *, fed: bool) -> None:
        """Note an explained layer's output, and whether another explained layer feeds it."""
        self.reached = self.reached or 0.0
        self.nested = self.nested or fed
        if not fed:
            leaf.register_hook(functools.partial(self._arrive, y.detach()))

    def _arrive(self, y: Tensor, g: Tensor) -> None:
        self.reached = (self.reached or 0.0) + float(relevance_of(g, y).sum())

    def record(self, entry: str, relevance: Tensor, *, received: bool) -> None:
        """Add what an operation received or handed on."""
        amount = float(self.amount(relevance))
        if not math.isfinite(amount) and self.first_bad is None and entry != TARGET:
            self.first_bad = entry
        (self.received if received else self.passed_on)[entry] += amount
        self.largest = max(self.largest, abs(amount))

    def probed(self, flow: Flow, x: Tensor, entry: str, *, received: bool) -> Tensor:
        """x, of which the relevance that passes is recorded."""

        def way(g: Tensor, x: Tensor) -> tuple[Tensor]:
            # Scores of -inf are what attention may not see: they get no relevance.
            values = x if x.is_complex() else x.masked_fill(x == -math.inf, 0)
            self.record(entry, relevance_of(g, values), received=received)
            return (g,)

        return Step.apply(flow.own(x), flow, way, x)  # type: ignore[no-any-return]

    def target(self, output: Any, flow: Flow) -> Any:
        """The output or explained head, with a record of the relevance with which a target function lets it start."""
        if any(isinstance(x, Tensor) for x in tree_iter(output)):  # of an object that hides its tensors it is unknown
            self.record(TARGET, self.scores, received=True)
        return tree_map_only(Tensor, lambda x: self.probed(flow, x, TARGET, received=False), output)

    def lost(self, total: float) -> dict[str, float]:
        """Operations that did not conserve relevance, beyond rounding."""
        least = max(1e-4 * total, 1e-6 * self.largest)
        balance = {k: self.received[k] - self.passed_on[k] for k in {**self.received, **self.passed_on}}
        return {k: v for k, v in balance.items() if abs(v) > least}

    def largest_growth(self) -> tuple[str, float] | None:
        """The operation that makes most of what it receives, and how many times as much."""
        factors = {k: self.passed_on[k] / size for k, size in self.received.items() if size > 0}
        return max(factors.items(), key=lambda item: item[1], default=None)

    def counts(self, function: Any, tracked: int) -> bool:
        """Whether an operation on so many tensors with relevance is counted: not where nothing can get lost."""
        name, kind = operation_name(function), kind_of(function)
        # What moves entries loses nothing, and gives views, into which the model may write.
        if name in self.excused or kind is Kind.STRUCTURE:
            return False
        if name in USER_RULES:
            return True
        parts_are_counted = name in WRITTEN_OUT and name not in HANDLERS
        is_linear = kind is Kind.LINEAR or (kind is Kind.PRODUCT and tracked == 1)
        return not parts_are_counted and not (self.excused and is_linear)


def counted(ledger: Ledger, handler: Handler, entry: str) -> Handler:
    """The handler of an operation, with a record of the relevance on both of its sides."""

    def run(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
        def probe(x: Tensor, *, received: bool) -> Any:
            mark = trace.marks[x]
            return trace.mark(ledger.probed(trace.flow, x, entry, received=received), mark) if x in trace.marks else x

        operands, keywords = tree_map_only(Tensor, functools.partial(probe, received=False), (args, kwargs))
        output = handler(trace, function, *operands, **keywords)
        if isinstance(output, Tensor):
            if ledger.first_nan is None and bool(batch_of(output).isnan().any()):
                ledger.first_nan = entry
            logits = trace.marks[output].logits
            if logits is not None and operands and logits[0] is operands[0]:  # not the probe's copy of them
                original = args[0], version_of(batch_of(args[0]))
                trace.mark(output, dataclasses.replace(trace.marks[output], logits=original))
        return tree_map_only(Tensor, functools.partial(probe, received=True), output)

    return run

"""Where relevance goes: what each operation takes in and hands on during one backward pass."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core import torch_private
from xaikit.explainers.lrp.flow import Flow, nonzero
from xaikit.explainers.lrp.marks import PLAIN
from xaikit.explainers.lrp.names import names
from xaikit.explainers.lrp.operations import apply_rule, out_of_place

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace

# Operations with a bias, a constant or a stabilizer, which may absorb relevance by their rule.
ABSORBING = names("""
    linear addmm matmul conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d batch_norm layer_norm
    rms_norm group_norm instance_norm add radd sub rsub addcmul addcdiv baddbmm where masked_fill cat stack pad
    constant_pad_nd index_put lerp
""")
# Operations written out in others, each of which is counted.
WRITTEN_OUT = names("""
    multi_head_attention_forward scaled_dot_product_attention lstm gru rnn_tanh rnn_relu lstm_cell gru_cell
    rnn_tanh_cell rnn_relu_cell
""")


class Ledger:
    """Relevance that came out of the operations minus what went in, by operation."""

    def __init__(self) -> None:
        self.balance: dict[str, float] = defaultdict(float)
        self.largest = 0.0
        self.first_bad: str | None = None  # where relevance stops being a number
        self.first_nan: str | None = None  # where the model's own values do
        self.scores: Tensor | None = None
        self.reached: float | None = None  # relevance at the explained layers that no other explained layer feeds
        self.nested = False  # whether one explained layer feeds another

    def layer(self, y: Tensor, leaf: Tensor, *, fed: bool) -> None:
        """Note an explained layer's output, and whether another explained layer feeds it."""
        self.reached = self.reached or 0.0
        if fed:
            self.nested = True
        else:
            leaf.register_hook(functools.partial(self._arrive, nonzero(y.detach())))

    def _arrive(self, y: Tensor, g: Tensor) -> None:
        self.reached = (self.reached or 0.0) + float((g * y).sum())

    def book(self, entry: str, relevance: float, sign: int) -> None:
        """Add what an operation received (sign +1) or handed on (-1)."""
        if not math.isfinite(relevance) and self.first_bad is None:
            self.first_bad = entry
        self.balance[entry] += sign * relevance
        self.largest = max(self.largest, abs(relevance))

    def lost(self, total: float, *, attn: bool) -> dict[str, float]:
        """Operations that must conserve relevance and did not, beyond rounding; AttnLRP's softmax need not."""
        excused = ABSORBING | {"softmax"} if attn else ABSORBING
        must = {k: v for k, v in self.balance.items() if out_of_place(k.partition(" ")[0]).strip("_") not in excused}
        rounding = 1e-6 * self.largest
        return {k: v for k, v in must.items() if abs(v) > max(1e-4 * total, rounding)}


class Probe(torch.autograd.Function):
    """Identity that books the relevance which passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, entry: str, sign: int, ledger: Ledger, flow: Flow) -> Tensor:  # noqa: D102
        ctx.book = (x.clone(), entry, sign, ledger, flow)  # a copy: the model may go on in place
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        x, entry, sign, ledger, flow = ctx.book
        if flow.active:
            with torch_private.DisableTorchFunction():
                ledger.book(entry, float((grads[0] * nonzero(x)).sum()), sign)
        return grads[0], None, None, None, None


def audited(trace: Trace, ledger: Ledger, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run one operation with its rule, and book the relevance on both of its sides."""
    name = getattr(func, "__name__", "")
    if name in WRITTEN_OUT or name in ("__get__", "__set__", "__setitem__"):
        return apply_rule(trace, func, args, kwargs)
    entry = f"{name} ({trace.where})" if trace.where else name

    def probe(value: Any, sign: int) -> Any:
        if trace.is_live(value):
            return trace.mark(Probe.apply(value, entry, sign, ledger, trace.flow), trace.marks[value])
        if isinstance(value, (tuple, list)):
            items = [probe(v, sign) for v in value]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        return value

    inside = tuple(probe(a, -1) for a in args)
    output = apply_rule(trace, func, inside, {k: probe(v, -1) for k, v in kwargs.items()})
    if ledger.first_nan is None and isinstance(output, Tensor) and bool(output.isnan().any()):
        ledger.first_nan = entry
    if isinstance(output, Tensor) and (mark := trace.marks.get(output)) is not None and mark.logits is not None:
        trace.mark(output, dataclasses.replace(mark, logits=args[0]))  # not the probe's copy of them
    if inside and output is inside[0] and isinstance(output, Tensor):  # in place: the original takes the result
        args[0].copy_(probe(output, 1))
        return trace.mark(args[0], trace.marks.get(output, PLAIN))
    return probe(output, 1)

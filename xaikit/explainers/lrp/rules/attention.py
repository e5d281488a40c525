"""Attention by torch's fused kernels, whose gradient is the relevance up to constant shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core.torch_private import is_batched
from xaikit.explainers.lrp.factors import in_part
from xaikit.explainers.lrp.operations import written_out
from xaikit.explainers.lrp.registry import USER_RULES, rule
from xaikit.torch_ops import by_name

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


@rule("scaled_dot_product_attention")
def attention(trace: Trace, function: Any, *args: Any, **kwargs: Any) -> Any:
    """Softmax(q k^T) v, of which the weights are not kept in memory.

    Without AttnLRP the weights are a gate, and all relevance goes to the values. AttnLRP gives the values half of it,
    and queries and keys a quarter of their gradients: both products share in halves, and the softmax hands on what its
    gradient says (arXiv:2402.05602). What needs another rule inside is written out.
    """
    a = by_name(function, args, kwargs)
    q, k, v = a["query"], a["key"], a["value"]
    if not _is_plain(trace, a["attn_mask"], a["dropout_p"], [q, k, v]):
        return written_out(trace, function, *args, **kwargs)
    if trace.attn:
        q, k, v = (in_part(trace.flow, x, share) for x, share in ((q, 0.25), (k, 0.25), (v, 0.5)))
    else:
        q, k = (trace.flow.stopped(x) for x in (q, k))
    return trace.mark(function(**{**a, "query": q, "key": k, "value": v}))


def _is_plain(trace: Trace, mask: Tensor | None, dropout: float, tensors: list[Tensor]) -> bool:
    """Whether the fused gradient, with constant shares, is what the rules of the parts would give."""
    if trace.flow.differentiable or dropout or USER_RULES.keys() & {"softmax", "matmul"} or mask in trace.marks:
        return False  # fused kernels have no second derivative
    if any(x not in trace.marks for x in (tensors if trace.attn else tensors[2:])):
        return False  # a constant factor makes a product a linear layer
    if any(trace.marks[x].gate or is_batched(x) or x.is_complex() for x in tensors):
        return False
    if mask is None or is_batched(mask):
        return mask is None
    # Where a query may attend to nothing, kernels differ in what they return and in its gradient.
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min
    return bool(visible.any(-1).all())

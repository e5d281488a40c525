"""Attention written out as products and a softmax, each with its rule: the fused kernels hide them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xaikit.explainers.lrp.operations import arguments, rule

if TYPE_CHECKING:
    from xaikit.explainers.lrp.trace import Trace


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax(q k^T * scale + bias) v, and the weights; run under the trace, every operation here finds its rule."""
    scores = torch.matmul(q, k.transpose(-2, -1)) * scale
    weights = torch.softmax(scores if bias is None else scores + bias, -1)
    return torch.matmul(weights, v), weights


def _bias(mask: Tensor, scores: Tensor) -> Tensor:
    """A mask as numbers to add: -inf where a boolean mask forbids attention."""
    if mask.is_floating_point():
        return mask
    return torch.zeros(mask.shape, dtype=scores.dtype, device=scores.device).masked_fill(~mask, -math.inf)


@rule("scaled_dot_product_attention")
def scaled_dot_product_attention(trace: Trace, _func: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention; dropout is off while a model is explained."""
    names = "query key value attn_mask dropout_p is_causal scale enable_gqa"
    a = arguments(names, args, kwargs, attn_mask=None, is_causal=False, scale=None, enable_gqa=False)
    q, k, v = a["query"], a["key"], a["value"]
    if a["enable_gqa"]:
        times = q.shape[-3] // k.shape[-3]
        with trace:
            k, v = k.repeat_interleave(times, -3), v.repeat_interleave(times, -3)
    mask = a["attn_mask"]
    if a["is_causal"]:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    scale = q.shape[-1] ** -0.5 if a["scale"] is None else a["scale"]
    with trace:
        return attend(q, k, v, None if mask is None else _bias(mask, q), scale)[0]


MHA = (
    "query key value embed_dim_to_check num_heads in_proj_weight in_proj_bias bias_k bias_v add_zero_attn dropout_p "
    "out_proj_weight out_proj_bias training key_padding_mask need_weights attn_mask use_separate_proj_weight "
    "q_proj_weight k_proj_weight v_proj_weight static_k static_v average_attn_weights is_causal"
)


@rule("multi_head_attention_forward")
def multi_head_attention(trace: Trace, func: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """nn.MultiheadAttention, on tensors of shape (length, batch, features) or (length, features)."""
    a = dict.fromkeys(MHA.split()) | {"need_weights": True, "average_attn_weights": True}
    a = arguments(MHA, args, kwargs, **a)
    if a["static_k"] is not None or a["static_v"] is not None:
        trace.unknown.setdefault("multi_head_attention_forward with static keys", trace.where)
        return trace.mark(func(*args, **kwargs))
    with trace:
        return _multi_head_attention(a)


def _multi_head_attention(a: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    batched, heads = a["query"].ndim == 3, a["num_heads"]
    inputs = [a[n] if batched else a[n].unsqueeze(1) for n in ("query", "key", "value")]
    length, n, width = inputs[0].shape
    if a["use_separate_proj_weight"]:
        weights = [a["q_proj_weight"], a["k_proj_weight"], a["v_proj_weight"]]
    else:
        weights = list(a["in_proj_weight"].chunk(3))
    biases = [None] * 3 if a["in_proj_bias"] is None else list(a["in_proj_bias"].chunk(3))
    projected = [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
    q, k, v = (x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for x in _with_extra_keys(projected, a))
    bias = None if a["attn_mask"] is None else _bias(_allowed(a["attn_mask"]), q)
    if bias is not None and bias.ndim == 3:
        bias = bias.view(n, heads, *bias.shape[1:])
    if (padding := a["key_padding_mask"]) is not None:
        padding = padding if padding.ndim == 2 else padding[None]
        forbidden = _bias(_allowed(padding)[:, None, None], q)
        bias = forbidden if bias is None else bias + forbidden
    if bias is not None:
        bias = F.pad(bias, (0, k.shape[-2] - bias.shape[-1]))  # extra keys are always seen
    mixed, attention = attend(q, k, v, bias, (width // heads) ** -0.5)
    mixed = mixed.permute(2, 0, 1, 3).reshape(length, n, width)
    output = F.linear(mixed, a["out_proj_weight"], a["out_proj_bias"])
    shown = attention.mean(1) if a["average_attn_weights"] else attention
    if not batched:
        output, shown = output.squeeze(1), shown.squeeze(0)
    return output, shown if a["need_weights"] else None


def _with_extra_keys(projected: list[Tensor], a: dict[str, Any]) -> list[Tensor]:
    """Queries, keys, values with the learnt key and the zero key that a module may add."""
    q, k, v = projected
    if a["bias_k"] is not None:
        k, v = (torch.cat([x, b.expand(1, *x.shape[1:])]) for x, b in ((k, a["bias_k"]), (v, a["bias_v"])))
    if a["add_zero_attn"]:
        k, v = (F.pad(x, (0, 0, 0, 0, 0, 1)) for x in (k, v))
    return [q, k, v]


def _allowed(mask: Tensor) -> Tensor:
    """nn.MultiheadAttention's boolean masks mark what is forbidden."""
    return mask if mask.is_floating_point() else ~mask

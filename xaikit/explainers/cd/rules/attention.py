"""Attention, written out in terms of the other rules."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.explainers.cd.decomposed import on_total
from xaikit.explainers.cd.registry import cd_rule, named


@cd_rule(*named("scaled_dot_product_attention"))
def scaled_dot_product_attention(  # noqa: PLR0913, PLR0917  the signature is torch's
    function: Any,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(q k' scale + mask) v: two products and a softmax."""
    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    mask = attn_mask
    if is_causal:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if mask is None:
        weights = torch.softmax(scores, -1)
    else:
        mask = additive(mask, query.dtype) if mask.dtype == torch.bool else mask
        weights = masked_softmax(scores, mask)
    return torch.matmul(functional.dropout(weights, dropout_p) if dropout_p else weights, value)


def masked_softmax(scores: Any, mask: Any) -> Any:
    """The softmax of scores + mask over the last dimension; a row without a key that it may see gets zeros."""
    unseeing = (on_total(mask) == -torch.inf).all(-1, keepdim=True)
    if not bool(unseeing.any()):
        return torch.softmax(scores + mask, -1)
    return torch.softmax(scores + mask.masked_fill(unseeing, 0), -1) * ~unseeing


def additive(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """An attention mask to add to the scores: 0 where attention is kept, minus infinity elsewhere."""
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, -torch.inf)


def combined_mask(attn_mask: Tensor | None, key_padding_mask: Tensor | None, heads: int, dtype: torch.dtype) -> Any:
    """The two masks of multi-head attention as one additive mask, (batch or 1, heads or 1, targets or 1, sources)."""
    total: Any = None
    if attn_mask is not None:
        total = additive(~attn_mask, dtype) if attn_mask.dtype == torch.bool else attn_mask
        total = total.unflatten(0, (-1, heads)) if total.dim() == 3 else total
    if key_padding_mask is not None:
        padding = additive(~key_padding_mask, dtype) if key_padding_mask.dtype == torch.bool else key_padding_mask
        padding = padding.view(-1, 1, 1, padding.shape[-1])
        total = padding if total is None else total + padding
    return total


@cd_rule(*named("multi_head_attention_forward"))
def multi_head_attention(  # noqa: PLR0913, PLR0917  the signature is torch's
    function: Any,
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """The attention of nn.MultiheadAttention, time first: q, k, v are (length, batch, features) or without a batch."""
    unbatched = query.dim() == 2
    if unbatched:
        query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    weights = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else in_proj_weight.chunk(3)
    biases = (None,) * 3 if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        functional.linear(x, weight, bias) for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
    )
    batch = q.shape[1]
    mask = combined_mask(attn_mask, key_padding_mask, num_heads, q.dtype)
    k, v = (
        x if extra is None else torch.cat([x, extra.expand(1, batch, -1)]) for x, extra in ((k, bias_k), (v, bias_v))
    )
    q, k, v = (_heads(x, num_heads) for x in (q, k, v))
    k, v = (
        x if static is None else static.unflatten(0, (batch, num_heads)) for x, static in ((k, static_k), (v, static_v))
    )
    if add_zero_attn:
        k, v = (torch.cat([x, torch.zeros_like(x[:, :, :1])], 2) for x in (k, v))
    scores = torch.matmul(q * (1 / math.sqrt(q.shape[-1])), k.transpose(-2, -1))
    if mask is None:
        attention = torch.softmax(scores, -1)
    else:
        attention = masked_softmax(scores, functional.pad(mask, (0, scores.shape[-1] - mask.shape[-1])))
    attention = functional.dropout(attention, dropout_p, training)
    output = torch.matmul(attention, v).permute(2, 0, 1, 3).flatten(2)
    output = functional.linear(output, out_proj_weight, out_proj_bias)
    if average_attn_weights:
        attention = attention.mean(1)
    if unbatched:
        output, attention = output.squeeze(1), attention.squeeze(0)
    return output, attention if need_weights else None


def _heads(x: Any, heads: int) -> Any:
    """(length, batch, heads * features) to (batch, heads, length, features)."""
    return x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)

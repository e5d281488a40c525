"""Attention written out as products and a softmax, which the fused kernels hide."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xaikit.core.torch_private import batch_of
from xaikit.torch_ops.arguments import by_name


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """Softmax(q k^T * scale + mask) v, and the softmax.

    Args:
        q: queries, (..., L, E).
        k: keys, (..., S, E).
        v: values, (..., S, F).
        mask: numbers to add, or True where a query may attend, broadcasting to (..., L, S). A query that may attend to
            nothing gets zeros, as from torch's kernels.
        scale: factor of the products.
    """
    scores = torch.matmul(q * scale, k.transpose(-2, -1))
    if mask is None:
        weights = torch.softmax(scores, -1)
        return torch.matmul(weights, v), weights
    hidden = mask == -math.inf if mask.is_floating_point() else ~mask
    sees_nothing = hidden.all(-1, keepdim=True)
    if mask.is_floating_point() and _any(mask.masked_fill(hidden, 0) != 0):
        scores = scores + mask.masked_fill(hidden, 0)
    if _any(hidden):
        scores = scores.masked_fill(hidden & ~sees_nothing, -math.inf)
    weights = torch.softmax(scores, -1)
    if _any(sees_nothing):
        weights = weights.masked_fill(sees_nothing, 0)
    return torch.matmul(weights, v), weights


def _any(condition: Tensor) -> bool:
    return bool(batch_of(condition).any())  # of all examples, where the model runs under torch.vmap


def scaled_dot_product_attention(function: Any, *args: Any, **kwargs: Any) -> Tensor:
    """PyTorch's attention; dropout is off while a model is explained."""
    a = by_name(function, args, kwargs)
    q, k, v = a["query"], a["key"], a["value"]
    if a["enable_gqa"]:
        repeats = q.shape[-3] // k.shape[-3]
        k, v = k.repeat_interleave(repeats, -3), v.repeat_interleave(repeats, -3)
    mask = a["attn_mask"]
    if a["is_causal"]:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    mixed = attend(q, k, v, mask, q.shape[-1] ** -0.5 if a["scale"] is None else a["scale"])[0]
    return _laid_out_as(mixed, a["query"])


def _laid_out_as(x: Tensor, query: Tensor) -> Tensor:
    """The output (..., L, F) with the strides that torch's kernels give it: models go on with `view`, which needs them.

    The fast kernels, which want values as wide as queries (F = E), return the strides of the query, (..., L, E).
    """
    order = sorted(range(query.ndim), key=query.stride, reverse=True)
    if x.shape != query.shape or order == list(range(query.ndim)):
        return x
    back = [order.index(axis) for axis in range(query.ndim)]
    return x.permute(order).contiguous().permute(back)


def multi_head_attention(function: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
    """What nn.MultiheadAttention runs, on tensors of shape (length, batch, features) or (length, features).

    Returns:
        The output, and the attention weights if they are asked for.
    """
    a = by_name(function, args, kwargs)
    batched, heads = a["query"].ndim == 3, a["num_heads"]
    inputs = [a[n] if batched else a[n].unsqueeze(1) for n in ("query", "key", "value")]
    length, n, width = inputs[0].shape
    q, k, v = (x.unflatten(-1, (heads, -1)).permute(1, 2, 0, 3) for x in _projected(inputs, a))
    mask = _mask(a, n, heads, k.shape[-2], q.dtype)
    mixed, attention = attend(q, k, v, mask, (width // heads) ** -0.5)
    mixed = mixed.permute(2, 0, 1, 3).reshape(length, n, width)
    output = F.linear(mixed, a["out_proj_weight"], a["out_proj_bias"])
    weights = attention.mean(1) if a["average_attn_weights"] else attention
    if not batched:
        output, weights = output.squeeze(1), weights.squeeze(0)
    return output, weights if a["need_weights"] else None


def _projected(inputs: list[Tensor], a: dict[str, Any]) -> list[Tensor]:
    """Queries, keys and values, (length, batch, features); keys or values that the caller projected stay.

    A module may add a learnt key and a zero key.
    """
    if not a["use_separate_proj_weight"] and a["query"] is a["key"] is a["value"]:
        projected = list(F.linear(inputs[0], a["in_proj_weight"], a["in_proj_bias"]).chunk(3, -1))
    else:
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        weights = [a[n] for n in names] if a["use_separate_proj_weight"] else a["in_proj_weight"].chunk(3)
        biases = [None] * 3 if a["in_proj_bias"] is None else a["in_proj_bias"].chunk(3)
        projected = [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]
    for i, static in ((1, a["static_k"]), (2, a["static_v"])):
        if static is not None:  # (batch * heads, length, features of a head)
            projected[i] = static.unflatten(0, (inputs[0].shape[1], -1)).permute(2, 0, 1, 3).flatten(2)
    q, k, v = projected
    if a["bias_k"] is not None:
        k, v = (torch.cat([x, b.expand(1, *x.shape[1:])]) for x, b in ((k, a["bias_k"]), (v, a["bias_v"])))
    if a["add_zero_attn"]:
        k, v = (F.pad(x, (0, 0, 0, 0, 0, 1)) for x in (k, v))
    return [q, k, v]


def _mask(a: dict[str, Any], n: int, heads: int, keys: int, dtype: torch.dtype) -> Tensor | None:
    """The sum of both masks as numbers to add, (1 or n, 1 or heads, 1 or length, keys); extra keys are always seen.

    The module's boolean masks mark what is forbidden.
    """

    def numbers(mask: Tensor) -> Tensor:
        return mask if mask.is_floating_point() else torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)

    masks = []
    if (mask := a["attn_mask"]) is not None:
        masks.append(numbers(mask.view(n, heads, *mask.shape[1:]) if mask.ndim == 3 else mask))
    if (padding := a["key_padding_mask"]) is not None:
        masks.append(numbers(padding if padding.ndim == 2 else padding[None])[:, None, None])
    return F.pad(sum(masks[1:], masks[0]), (0, keys - masks[0].shape[-1])) if masks else None

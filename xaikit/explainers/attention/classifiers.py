"""attention_relevance: what a classifier with attention rests on, token by token: BERT, ViT and their kin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import targets as target_rules
from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names
from xaikit.core.model_device import model_device
from xaikit.core.model_state import evaluated
from xaikit.explainers.attention.rules import METHODS, joined_layers, read_layers


def attention_relevance(
    model: nn.Module,
    inputs: Any,
    targets: Any = None,
    *,
    method: str = "transformer_attribution",
    position: int | None = 0,
) -> Tensor:
    """The relevance of each token, or patch, by the attention weights A of all layers.

    * "rollout": the product over layers of (mean over heads of A + 1) / 2 (Abnar & Zuidema 2020, arXiv:2005.00928).
    * "gradient_rollout": the same with (A * dS/dA)+ in place of A, each row divided by its sum.
    * "transformer_attribution": R = R + mean over heads of (A * dS/dA)+ R from layer to layer, beginning with the
      identity (Chefer et al. 2021, arXiv:2103.15679).

    These are baselines to compare with. Attention says where a layer reads, not what it does with what it reads.

    Args:
        model: a classifier of transformers that returns its attention weights: one with
            ``model.set_attn_implementation("eager")``.
        inputs: its arguments by name (what a tokenizer or an image processor returns), or pixel values (N, C, H, W).
        targets: the score S: a class, one for each sample, or another target of `Explainer.attribute`.
        method: one of the three.
        position: whose row is read: 0 for models that classify by their first token, None for the mean of all rows.

    Returns:
        The relevance (N, T). Of a ViT the first column is its own token; ``[:, 1:].unflatten(1, (14, 14))`` is a map.

    Raises:
        InvalidInputError: for a model without attention weights, or an unknown method.
        InvalidTypeError: for something that is no model.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"attention_relevance takes a model, got a {type(model).__name__}")
    if method not in METHODS:
        raise InvalidInputError(f"method is one of {', '.join(METHODS)}, got {method!r}{near_names(method, METHODS)}")
    device = model_device(model)
    arguments = inputs if isinstance(inputs, Mapping) else {"pixel_values": inputs}
    tensors = {name: to_tensor(value, name).to(device) for name, value in arguments.items()}
    with evaluated(model, device) as running, torch.enable_grad():
        output = running(**_with_gradient(running, tensors), output_attentions=True)
        weights = [layer for layer in getattr(output, "attentions", None) or () if isinstance(layer, Tensor)]
        if not weights:
            raise InvalidInputError(
                f"the {type(model).__name__} returns no attention weights; call model.set_attn_implementation('eager')"
            )
        gradients = None
        if method != "rollout":
            logits = output.logits
            target = target_rules.normalise(targets, len(logits), device, output_axes=lambda: logits.ndim)
            gradients = torch.autograd.grad(target_rules.score(logits, target).sum(), weights)
        relevance = joined_layers(read_layers(weights, gradients), method)
    return relevance.mean(1) if position is None else relevance[:, position]


def _with_gradient(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The arguments, of which one takes a gradient, since weights of the model may not."""
    ids = tensors.get("input_ids")
    if ids is not None:
        others = {name: value for name, value in tensors.items() if name != "input_ids"}
        return {**others, "inputs_embeds": model.get_input_embeddings()(ids).detach().requires_grad_()}
    return {n: v.detach().requires_grad_() if v.is_floating_point() else v for n, v in tensors.items()}

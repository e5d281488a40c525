"""How the attention weights of several layers are joined: rollout, gradient rollout, transformer attribution."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

METHODS = ("rollout", "gradient_rollout", "transformer_attribution")


def read_layers(weights: Sequence[Tensor], gradients: Sequence[Tensor] | None) -> list[Tensor]:
    """What each layer reads, (..., T, T): the mean over heads of A, or of (A * dS/dA)+.

    Args:
        weights: attention weights A, (..., heads, T, T).
        gradients: dS/dA of a score S; None takes the weights alone.
    """
    if gradients is None:
        return [layer.detach().mean(-3) for layer in weights]
    pairs = zip(weights, gradients, strict=True)
    return [(layer.detach() * g).clamp_min(0).mean(-3) for layer, g in pairs]


def joined_layers(layers: Sequence[Tensor], method: str) -> Tensor:
    """The relevance of each token (columns) for each position (rows) of the last layer, (..., T, T).

    Args:
        layers: what each layer reads, (..., T, T), the first layer first.
        method: "transformer_attribution": R = R + layer R. Any other: R = rows of (layer + 1) divided by their sum, R.
    """
    identity = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    relevance = identity.expand_as(layers[0])
    for layer in layers:
        if method == "transformer_attribution":
            relevance = relevance + layer @ relevance
            continue
        relevance = _with_residual(layer) @ relevance
    return relevance


def crossed(
    encoder: Sequence[Tensor], decoder: Sequence[Tensor], cross: Sequence[Tensor], method: str
) -> tuple[Tensor, Tensor]:
    """The relevance of decoder and encoder tokens for each position of a decoder.

    With R_ee of the encoder by `joined_layers`, each decoder layer takes for its self-attention D and its
    cross-attention C:

    * "transformer_attribution": R_dd = R_dd + D R_dd, R_de = R_de + D R_de + N(R_dd)^T C N(R_ee). N takes the identity
      out, divides rows by their sum, and puts it back (Chefer et al., arXiv:2103.15679).
    * any other: R_dd = R(D) R_dd and R_de = R(D) R_de, where R adds the identity and divides rows by their sum; then
      R_dd = R_dd / n and R_de = (R_de + C R_ee) / n, where n is 1 + the sum of the row of C. A row over both sums to 1.

    Args:
        encoder: what its layers read, (S, S).
        decoder: what its self-attention reads, (T, T).
        cross: what its cross-attention reads, (T, S).
        method: one of `METHODS`.

    Returns:
        R_dd (T, T) and R_de (T, S).
    """
    of_encoder = joined_layers(encoder, method)
    to_decoder = torch.eye(len(decoder[0]), dtype=decoder[0].dtype, device=decoder[0].device)
    to_encoder = torch.zeros_like(cross[0])
    if method != "transformer_attribution":
        for within, across in zip(decoder, cross, strict=True):
            mixed, total = _with_residual(within), 1 + across.sum(-1, keepdim=True)
            to_decoder = mixed @ to_decoder / total
            to_encoder = (mixed @ to_encoder + across @ of_encoder) / total
        return to_decoder, to_encoder
    of_encoder = _without_scale(of_encoder)
    for within, across in zip(decoder, cross, strict=True):
        to_encoder = to_encoder + within @ to_encoder
        to_decoder = to_decoder + within @ to_decoder
        to_encoder = to_encoder + _without_scale(to_decoder).T @ across @ of_encoder
    return to_decoder, to_encoder


def _with_residual(layer: Tensor) -> Tensor:
    mixed = layer + torch.eye(layer.shape[-1], dtype=layer.dtype, device=layer.device)
    return mixed / mixed.sum(-1, keepdim=True)


def _without_scale(relevance: Tensor) -> Tensor:
    identity = torch.eye(len(relevance), dtype=relevance.dtype, device=relevance.device)
    gathered = relevance - identity
    sums = gathered.sum(-1, keepdim=True)
    return gathered / sums.masked_fill(sums == 0, 1) + identity

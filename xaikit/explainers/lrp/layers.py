"""Affine operations as functions of their parameters, and BatchNorm folded into them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LayerFunction = Callable[[Tensor, Tensor, Tensor | None], Tensor]
Transpose = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Operation:
    """An affine operation as a function of its parameters."""

    forward: LayerFunction  # (x, W, b) -> W x + b; b: a vector over the channels, a map that broadcasts to y, or None
    transpose: Transpose  # (g, W, x) -> W^T g, shaped like x
    out_dim: int = 0  # dimension of W that holds the output channels; the input channels: the other of the first two
    channel_dim: int = 1  # dimension of the output that holds them
    groups: int = 1  # of a convolution; dimension 1 of W holds the channels of one group


@dataclasses.dataclass(frozen=True)
class Affine:
    """One call of an affine operation."""

    x: Tensor
    y: Tensor  # with its true gradient
    weight: Tensor  # W as it came: a parameter, a reparametrised weight
    bias: Tensor | None
    operation: Operation
    rule: Any  # `zennit_rules.Rule`
    side: Affine | None = None  # the same layer on an input that is explained, where x stands before its BatchNorm
    scale: Tensor | None = None  # of each output channel, by the BatchNorm behind: formulas multiply it in


@dataclasses.dataclass(frozen=True)
class StandaloneBatchNorm:
    """A BatchNorm that no affine operation precedes: y = scale * x + shift, per channel (dimension 1).

    `y` has no rule of its own, for the affine operation behind, of which the BatchNorm then becomes part.
    """

    x: Tensor
    y: Tensor
    scale: Tensor
    shift: Tensor


def _channels(value: Tensor, x: Tensor) -> Tensor:
    return value.view(-1, *(1,) * (x.ndim - 2))


# A product and a sum, not torch's own: its gradient is wrong for a batch of one whose gradient comes transposed (2.13).
DIAGONAL = Operation(
    lambda x, w, b: x * _channels(w, x) if b is None else torch.addcmul(_channels(b, x), x, _channels(w, x)),
    lambda g, w, _x: g * _channels(w, g),
)


def scaled(w: Tensor, scale: Tensor, operation: Operation, *, inputs: bool = False) -> Tensor:
    """W times one number for each output channel, or for each input channel."""
    if (operation.out_dim == 0) != inputs:  # the channels are in dimension 0, which holds those of all groups
        return w * _channels(scale, w).unsqueeze(1)
    blocks = w.reshape(operation.groups, -1, *w.shape[1:])
    return (blocks * scale.view(operation.groups, 1, -1, *(1,) * (w.ndim - 2))).reshape(w.shape)


def folded_after(layer: Affine, scale: Tensor, shift: Tensor) -> Affine:
    """One layer in place of an affine one and the BatchNorm behind it: W' = scale * W, b' = scale * b + shift."""
    y = DIAGONAL.forward(layer.y, scale, shift)
    bias = shift if layer.bias is None else DIAGONAL.forward(layer.bias, scale, shift)
    side = None if layer.side is None else folded_after(layer.side, scale, shift)
    product = scale if layer.scale is None else layer.scale * scale
    return dataclasses.replace(layer, y=y, bias=bias, side=side, scale=product)


def folded_before(layer: Affine, norm: StandaloneBatchNorm) -> Affine:
    """One affine layer in place of a BatchNorm and the affine layer behind it: W (scale * x + shift) + b.

    A padded convolution sees no shift beyond the border, so that the new bias is a map over the positions.
    """
    x, w = norm.x, layer.weight
    weight = scaled(w, norm.scale, layer.operation, inputs=True)
    constant = norm.shift.view(1, -1, *(1,) * (x.ndim - 2)).expand(1, *x.shape[1:])
    bias = layer.operation.forward(constant, w, layer.bias)
    return dataclasses.replace(layer, x=x, weight=weight, bias=bias[0] if bias.ndim == 2 else bias)

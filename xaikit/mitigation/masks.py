"""Masks that say where an explanation must not look: 1 = penalise, 0 = free, in between = in part."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import Tensors, flatten, token_ids


def check_mask(mask: Any) -> Tensor:
    """The mask as a floating-point tensor with values in [0, 1].

    Raises:
        InvalidTypeError: for anything but a tensor or an array.
        InvalidInputError: for NaN or values outside [0, 1].
    """
    try:
        mask = torch.as_tensor(mask)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(f"a mask must be a tensor or an array, got {type(mask).__name__}") from None
    mask = mask if mask.is_floating_point() else mask.float()
    if bool(torch.isnan(mask).any()):
        raise InvalidInputError("a mask must hold values in [0, 1], got NaN")
    if mask.numel() and (float(mask.min()) < 0 or float(mask.max()) > 1):
        raise InvalidInputError(
            f"a mask must hold values in [0, 1], got {float(mask.min()):g} to {float(mask.max()):g}"
        )
    return mask


def label_tensor(labels: Any) -> Tensor:
    """Labels as a tensor.

    Raises:
        InvalidTypeError: for what cannot be one.
    """
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(f"labels must be class indices (N,), got {labels!r}") from None


def batch_masks(mask: Any, labels: Any, where: str) -> Any:
    """The masks of a batch as tensors: from one for each class, or from a list with a mask or None for each sample.

    Args:
        mask: as for `Mitigator.loss`.
        labels: class indices (N,).
        where: "sample" or "class".

    Raises:
        InvalidInputError: for a list of another length, or fewer masks than classes.
    """
    if isinstance(mask, (list, tuple)) and any(m is None for m in mask):
        mask = _stacked(mask)
        if where == "sample" and len(mask) != len(labels):
            raise InvalidInputError(
                f"a list of masks must hold one (or None) for each of {len(labels)}, got {len(mask)}"
            )
    if where == "sample" or mask is None:
        return mask
    leaves, rebuild = flatten(mask, "masks")
    chosen = label_tensor(labels)
    for leaf in leaves:
        if len(leaf) <= int(chosen.max()):
            raise InvalidInputError(
                f"where='class' needs a mask for each class, (classes, ...): there is a label {int(chosen.max())}, and "
                f"{len(leaf)} masks"
            )
    return rebuild(tuple(leaf[chosen.to(leaf.device)] for leaf in leaves))


def _stacked(masks: Any) -> Tensor:
    """Masks of samples as one tensor; zeros for those that have none."""
    given = [None if m is None else check_mask(m) for m in masks]
    shapes = {tuple(m.shape) for m in given if m is not None}
    if len(shapes) > 1:
        raise InvalidInputError(f"the masks of the samples must have one shape, got {sorted(shapes)}")
    if not shapes:
        raise InvalidInputError("every mask of the list is None, so there is nothing that it could be about")
    empty = torch.zeros(shapes.pop())
    return torch.stack([empty if m is None else m.to(empty) for m in given])


def per_sample(mask: Tensor, images: Tensor) -> bool:
    """Whether a mask for a whole set holds one map for each of its samples (else one for all)."""
    n = len(images)
    if not images.is_floating_point() and mask.ndim == images.ndim + 1 and len(mask) == n:
        return True  # tokens (N, T), masked in their embedding (N, T, D)
    allowed = f"(N, ...) with N = {n}, or one map of shape {_map_shape(images)} for all"
    if mask.ndim == images.ndim or (mask.ndim == images.ndim - 1 and images.ndim > 2):
        if len(mask) == n:
            return True
        if mask.ndim == images.ndim and len(mask) == 1:
            return False
        raise InvalidInputError(f"masks must have shape {allowed}; got {tuple(mask.shape)}")
    if mask.ndim == max(1, images.ndim - 2):
        return False
    raise InvalidInputError(f"masks must have shape {allowed}; got {tuple(mask.shape)}")


def fit_mask(mask: Tensor, attribution: Tensor) -> Tensor:
    """The mask brought to the shape of an attribution: (N, C, ...) or (N, F).

    Takes (N, C, ...), (N, ...) without channels, or (...) for all samples; other spatial sizes are resized by area.

    Raises:
        InvalidInputError: for any other shape; the message names those that it takes.
    """
    mask = mask.to(attribution)
    n, dims, given = len(attribution), attribution.ndim, mask
    if dims <= 2:
        if mask.shape in (attribution.shape, attribution.shape[1:]):
            return mask.expand_as(attribution)
        raise _shape_error(given, attribution)
    if mask.ndim == dims - 2:
        mask = mask[None, None]
    elif mask.ndim == dims - 1:
        mask = mask[:, None]
    if mask.ndim != dims or len(mask) not in (1, n) or mask.shape[1] not in (1, attribution.shape[1]):
        raise _shape_error(given, attribution)
    if mask.shape[2:] != attribution.shape[2:]:
        if dims > 5:
            raise _shape_error(given, attribution)
        mask = F.interpolate(mask, attribution.shape[2:], mode="area")
    return mask.expand_as(attribution)


def fit_masks(mask: Any, attributions: Tensors, inputs: Tensors = ()) -> Tensors:
    """One mask for each attribution tensor: from a structure like theirs, or one tensor where there is one.

    Where integer tokens (N, T) among the `inputs` are explained at an embedding (N, T, D), a mask (N, T) or (T,) is
    over the tokens, and never resized. At a layer with other channels than the input's, a mask (N, C, ...) counts at a
    position where it does in any channel. No mask means everything.
    """
    if mask is None:
        return tuple(torch.ones_like(a) for a in attributions)
    leaves = flatten(mask, "masks")[0]
    if len(leaves) != len(attributions):
        raise InvalidInputError(f"masks must match the {len(attributions)} explained tensors, got {len(leaves)}")
    masks = (check_mask(m) for m in leaves)
    given = inputs if len(inputs) == len(attributions) else attributions
    return tuple(
        fit_mask(_over_channels(_over_tokens(m, a, inputs), a, x), a)
        for m, a, x in zip(masks, attributions, given, strict=True)
    )


def _over_channels(mask: Tensor, attribution: Tensor, x: Tensor) -> Tensor:
    like_input = mask.ndim == x.ndim == attribution.ndim > 2 and mask.shape[1] == x.shape[1]
    return mask.amax(1, keepdim=True) if like_input and attribution.shape[1] != x.shape[1] else mask


def of_tokens(attribution: Tensor, inputs: Tensors) -> bool:
    """Whether integer tokens (N, T) among the inputs are explained at an embedding (N, T, D)."""
    return token_ids(attribution, inputs) is not None


def _over_tokens(mask: Tensor, attribution: Tensor, inputs: Tensors) -> Tensor:
    tokens = attribution.shape[:2]
    if not of_tokens(attribution, inputs) or mask.ndim > 2:
        return mask
    if mask.shape not in (tokens, tokens[1:]):
        shapes = [tuple(attribution.shape), tuple(tokens), tuple(tokens[1:])]
        raise InvalidInputError(
            f"a mask for the embedding {shapes[0]} must have one of the shapes {', '.join(map(str, shapes))}, "
            f"got {tuple(mask.shape)}"
        )
    return mask[..., None].expand(attribution.shape)


def is_text(x: Tensor) -> bool:
    """Whether these are integer tokens (N, T), whose masked ones stand anywhere."""
    return x.ndim == 2 and not x.is_floating_point()


def exchanged(x: Tensor, mask: Tensor, other: Tensor, theirs: Tensor) -> Tensor:
    """Samples with their masked region taken from others.

    Of tokens (N, T), the masked ones become those that the other text has in its own mask, in order, over and over
    where these are fewer; where there are none, they stay.

    Args:
        x: (N, ...).
        mask: of x, of its shape.
        other: like x, the samples that lend.
        theirs: the mask of these.
    """
    if x.is_floating_point():
        return x + mask * (other - x)
    if not is_text(x):
        return torch.where(mask > 0.5, other, x)
    inside, lent = mask > 0.5, theirs > 0.5
    number = lent.sum(1, keepdim=True)
    tokens = other.gather(1, lent.int().argsort(dim=1, descending=True, stable=True))  # the masked ones first
    turn = (inside.cumsum(1) - 1).clamp_min(0) % number.clamp_min(1)
    return torch.where(inside & (number > 0), tokens.gather(1, turn), x)


def _map_shape(images: Tensor) -> tuple[int, ...]:
    return tuple(images.shape[2:]) if images.ndim > 2 else tuple(images.shape[1:])


def _shape_error(mask: Tensor, attribution: Tensor) -> InvalidInputError:
    n, rest = len(attribution), _map_shape(attribution)
    shapes = [(n, *attribution.shape[1:]), *([(n, *rest)] if attribution.ndim > 2 else []), rest]
    names = ", ".join(map(str, dict.fromkeys(shapes)))
    return InvalidInputError(
        f"a mask for {tuple(attribution.shape)} must have one of the shapes {names}, got {tuple(mask.shape)}"
    )

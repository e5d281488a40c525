"""What a penalty is made of: the score that is explained, and the number made of the masked attribution.

Published penalties differ in target, reduction and normalisation, so that no weight carries over from one to the other;
here each of these is named.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors

OUTPUTS = ("log_probability", "logit", "probability")
TARGETS = ("label", "all", "predicted")
NORMALIZATIONS = ("none", "mask", "total")


def score_function(target: str, output: str, labels: Tensor) -> Callable[[Tensor], Tensor]:
    """The score of each sample as a function of the logits (N, C).

    "label": of the sample's own class; "predicted": of the class with the largest logit; "all": summed over classes.
    """

    def score(logits: Tensor) -> Tensor:
        if logits.ndim != 2:
            raise InvalidInputError(f"the penalised head must return logits (N, classes), got {tuple(logits.shape)}")
        values = {"log_probability": logits.log_softmax, "logit": lambda _: logits, "probability": logits.softmax}[
            output
        ](-1)
        if target == "all":
            return values.sum(-1)
        chosen = labels if target == "label" else logits.argmax(-1)
        return values.gather(1, chosen[:, None])[:, 0]

    return score


def masked_power(
    attributions: Tensors, masks: Tensors, *, power: float, channels: str, normalization: str, reduction: str
) -> Tensor:
    """The sum over features of mask * |attribution|**power, over the samples summed or averaged.

    Args:
        attributions: each (N, C, ...) or (N, F).
        masks: of the same shapes, values in [0, 1].
        power: 2 for the squared norm of right for the right reasons, 1 for the absolute sum.
        channels: "each" takes every channel by itself; "sum" adds the channels (axis 1 of three or more) first.
        normalization: "none"; "mask" divides by the number of masked entries of the batch; "total" divides each sample
            by its own sum over all features, inside the graph, so that the penalty is a share of the explanation.
        reduction: "sum" or "mean" over the samples.
    """
    inside, total, count = [], [], []
    for attribution, mask in zip(attributions, masks, strict=True):
        a, m = attribution, mask
        if channels == "sum" and a.ndim > 2:
            a, m = a.sum(1, keepdim=True), m.amax(1, keepdim=True)
        # |a|**2 by itself: the derivative of abs at 0 would cost a pass and change nothing.
        size = a.square() if power == 2 else a.abs().pow(power)
        inside.append((m * size).flatten(1).sum(1))
        total.append(size.flatten(1).sum(1))
        count.append(m.sum())
    penalty = torch.stack(inside).sum(0)
    if normalization == "mask":
        penalty = penalty / torch.stack(count).sum().clamp_min(1)
    elif normalization == "total":
        whole = torch.stack(total).sum(0)
        penalty = penalty / whole.clamp_min(torch.finfo(whole.dtype).eps)
    return penalty.sum() if reduction == "sum" else penalty.mean()

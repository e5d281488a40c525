"""Parts of penalties: the score that is explained, and the number that is computed from the masked attribution.

Published penalties differ in target, reduction and normalisation, so their weights cannot be compared. Here each of
these is a setting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.core import EXPLAINERS, Choice
from xaikit.core.errors import InvalidInputError
from xaikit.core.labels import read_classes, read_labels
from xaikit.core.structure import Tensors, by_row
from xaikit.core.value_ranges import range_of
from xaikit.mitigation.projections import Projection

EXPLANATION = Choice(EXPLAINERS, required_attribute="DIFFERENTIABLE")
OUTPUTS = ("log_probability", "logit", "probability")
TARGETS = ("label", "all", "predicted", "random")
NORMALIZATIONS = ("none", "mask", "total")
REGRESSION = "regression"  # the task whose labels are numbers


def score_function(
    target: str, output: str, labels: Any, seed: int = 0, *, independent: bool = False
) -> Callable[[Tensor], Tensor]:
    """The score of each sample as a function of the logits (N, C).

    "label": of the sample's own class; "predicted": of the class with the largest logit; "all": summed over classes;
    "random": the inner product with a standard normal vector for each sample, less the vector's mean over the classes.
    The expected squared gradient of this score is the sum over classes of the squared gradients of the centred logits.
    So it covers all classes at the cost of one, and a shift that all classes share is not penalised (Hoffman et al.
    2019, arXiv:1908.02729, for the whole Jacobian). A model with a single output always has this output as its score.
    Where there are logits for each position (segmentation, tokens), the scores of all positions are added up; labels
    that are no class, such as -100, count for nothing. Of labels in the logits' form, several classes of a sample or
    probabilities, "label" is the sum of each class's score times its label.

    Args:
        target: one of `TARGETS`.
        output: what a score is, one of `OUTPUTS`.
        labels: class indices (N,), or numbers for a model with a single output; checked.
        seed: of the random vectors.
        independent: each class has a probability of its own (a sigmoid), not a share of one (softmax).
    """

    def score(logits: Tensor) -> Tensor:
        if logits.numel() == len(logits):
            return logits.reshape(len(logits))
        if logits.ndim < 2:
            raise _not_logits(logits)
        weights = labels if isinstance(labels, Tensor) and labels.shape == logits.shape else None
        logits = classes_last(logits, labels)
        values = _values(logits, output, independent)
        if target == "all":
            return values.flatten(1).sum(1)
        if target == "random":
            generator = torch.Generator().manual_seed(seed)
            # The dtype is named, since a Fabric's precision may change the default, and with it the draw.
            normal = torch.randn(logits.shape, generator=generator, dtype=torch.float32, device="cpu").to(values)
            return (values * (normal - normal.mean(-1, keepdim=True))).flatten(1).sum(1)
        if target == "label" and weights is not None:
            return (_shares(weights) * values).flatten(1).sum(1)
        if logits.ndim > 2:
            return _at_positions(values, labels if target == "label" else logits.argmax(-1))
        chosen = check_labels(labels, logits) if target == "label" else logits.argmax(-1)
        return values.gather(1, chosen[:, None])[:, 0]

    return score


def _values(logits: Tensor, output: str, independent: bool) -> Tensor:
    if output == "logit":
        return logits
    if independent:
        return F.logsigmoid(logits) if output == "log_probability" else logits.sigmoid()
    return logits.log_softmax(-1) if output == "log_probability" else logits.softmax(-1)


def _shares(labels: Tensor) -> Tensor:
    """Labels (N, C) or (N, C, ...) in the logits' form, with their classes last."""
    low, high = range_of(labels.float())
    if low < 0 or high > 1:
        raise InvalidInputError(
            f"labels of the logits' shape {tuple(labels.shape)} must lie in [0, 1] to say how far a sample is of each "
            f"class, got {low:g} to {high:g}; of other numbers explain target='random' or 'all'"
        )
    return classes_last(labels, None)


def classes_last(logits: Tensor, labels: Any) -> Tensor:
    """Logits with the classes on the last axis.

    They have them on the second axis (N, C, H, W), or last, as language models do (N, T, C): there the labels (N, T)
    have the shape of all other axes, and would not fit otherwise.

    Args:
        logits: (N, C), (N, C, ...) or (N, ..., C).
        labels: class indices; others say nothing of the axis.
    """
    if logits.ndim == 2:
        return logits
    shape = tuple(labels.shape) if isinstance(labels, Tensor) else ()
    return logits if shape == logits.shape[:-1] and shape[1:] != logits.shape[2:] else logits.movedim(1, -1)


def _at_positions(values: Tensor, classes: Any) -> Tensor:
    """The values (N, ..., C) of a class at each position, added up."""
    if not isinstance(classes, Tensor) or classes.is_floating_point() or classes.shape != values.shape[:-1]:
        got = f"{classes.dtype} {tuple(classes.shape)}" if isinstance(classes, Tensor) else type(classes).__name__
        raise InvalidInputError(
            f"the model returns a score for each position, so target='label' needs a class for each, integers of shape "
            f"{tuple(values.shape[:-1])}, got {got}; use target='random' or 'all', or name another output with head="
        )
    is_class = (classes >= 0) & (classes < values.shape[-1])
    chosen = values.gather(-1, torch.where(is_class, classes, 0).long()[..., None])[..., 0]
    return (chosen * is_class).flatten(1).sum(1)


def check_labels(labels: Any, logits: Tensor, *, regression: bool = False) -> Tensor:
    """Labels as the task's loss takes them, on the logits' device: class indices or, for a regression, numbers (N,).

    A model with a single output is a binary classifier where the labels are the integers 0 and 1, and a regression
    where they are floating-point numbers. Floating-point labels that are all 0 and 1 could mean either.

    Args:
        labels: in any form that `read_labels` takes.
        logits: of the model, (N, classes), (N, 1) or (N,).
        regression: labels of a single output are numbers, whatever they are.

    Raises:
        InvalidTypeError: for labels that are no whole numbers where there are classes.
        InvalidInputError: for a wrong shape, a label outside 0..C-1, numbers that are not finite, or labels of a single
            output that could mean either.
    """
    n = len(logits)
    values = read_labels(labels, n).to(logits.device)
    if logits.numel() == n:
        return _labels_of_single_output(values, logits, regression)
    if logits.ndim != 2:
        raise _not_logits(logits)
    return read_classes(values, n, n_classes=logits.shape[1])


def _labels_of_single_output(values: Tensor, logits: Tensor, regression: bool) -> Tensor:
    if regression:
        return values.to(logits.dtype)
    low, high = range_of(values)
    binary = low >= 0 and high <= 1
    if binary and values.is_floating_point():
        binary = bool(((values == 0) | (values == 1)).all())
    if not values.is_floating_point() and binary:
        return values
    if not values.is_floating_point():
        raise InvalidInputError(
            f"labels of a model with a single output must be the classes 0 and 1, or floating-point numbers for a "
            f"regression, got {values.dtype} up to {int(values.max())}; pass labels.float() for a regression"
        )
    if binary:
        raise InvalidInputError(
            f"labels of {values.dtype} that are all 0 and 1, for a model with a single output, could be classes or "
            "numbers; pass labels.long() for a binary classifier, or task_loss='regression'"
        )
    return values.to(logits.dtype)


def _not_logits(logits: Tensor) -> InvalidInputError:
    return InvalidInputError(
        f"the model must return logits (N, classes), got {tuple(logits.shape)}; name the output with head=, or say "
        "task_loss='cross_entropy' where it classifies each position"
    )


def task_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, of a single output that of its sigmoid; mean squared error where the labels are numbers.

    Args:
        logits: of the model, (N, classes), (N, 1) or (N,).
        labels: as `check_labels` gives them.
    """
    if labels.is_floating_point():
        return F.mse_loss(logits.reshape(labels.shape), labels)
    if logits.numel() == len(logits):
        return F.binary_cross_entropy_with_logits(logits.reshape(labels.shape), labels.to(logits.dtype))
    return F.cross_entropy(logits, labels)


def masked_power(
    attributions: Tensors, masks: Tensors, *, what: Projection, power: float, normalization: str, reduction: str
) -> Tensor:
    """The sum over features of mask * |what(attribution)|**power, over the samples summed or averaged.

    Args:
        attributions: each (N, C, ...) or (N, F).
        masks: of the same shapes, values in [0, 1].
        what: the part of the attribution that is penalised.
        power: 2 for the squared norm of right for the right reasons, 1 for the absolute sum.
        normalization: "none"; "mask" divides by the number of masked entries of the batch; "total" divides each sample
            by the sum of |attribution|**power over all features, inside the graph, so that the penalty is a share of
            the explanation.
        reduction: "sum", or "mean" over the samples that have a mask.
    """
    inside, total, count, masked = [], [], [], []
    for attribution, mask in zip(attributions, masks, strict=True):
        full = at_least_float32(attribution)
        a, m = _fitted(what(full), mask.to(full))
        inside.append(by_row(m * _power(a, power)).sum(1))
        if normalization == "total":
            total.append(by_row(_power(full, power)).sum(1))
        count.append(m.sum())
        masked.append(by_row(m != 0).any(1))
    penalty = torch.stack(inside).sum(0)
    if normalization == "mask":
        penalty = penalty / torch.stack(count).sum().clamp_min(1)
    elif normalization == "total":
        sums = torch.stack(total).sum(0)
        penalty = penalty / sums.clamp_min(torch.finfo(sums.dtype).eps)
    return penalty.sum() if reduction == "sum" else penalty.sum() / torch.stack(masked).any(0).sum().clamp_min(1)


def at_least_float32(values: Tensor) -> Tensor:
    """Values that are exact enough to be squared and summed."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def gradient_ratio(task: Tensor, penalty: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """|d task / d theta| / |d penalty / d theta|, a constant; 0 where the penalty has no gradient."""
    trainable = [p for p in parameters if p.requires_grad]
    if not trainable or not penalty.requires_grad or not task.requires_grad:
        return torch.zeros_like(penalty.detach())
    norms = []
    for value in (task, penalty):
        grads = torch.autograd.grad(value, trainable, retain_graph=True, allow_unused=True)
        norms.append(torch.stack([g.detach().norm().to(penalty) for g in grads if g is not None]).norm())
    return torch.where(norms[1] > 0, norms[0] / norms[1], torch.zeros_like(norms[1]))


def _power(values: Tensor, power: float) -> Tensor:
    # |a|**2 needs no abs, which would cost a pass over the values.
    return values.square() if power == 2 else values.abs().pow(power)


def _fitted(part: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """A projected attribution and the mask; where axes were summed over, the mask's largest value along them."""
    summed = [i for i in range(1, mask.ndim) if part.shape[i] == 1 and mask.shape[i] != 1]
    fitted = mask.amax(summed, keepdim=True) if summed else mask
    if part.shape != fitted.shape:
        raise InvalidInputError(
            f"what= made {tuple(part.shape)} of an attribution of shape {tuple(mask.shape)}; each axis must keep its "
            "size or become 1"
        )
    return part, fitted

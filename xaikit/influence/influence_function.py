"""The influence function: what the loss of a test sample would be had a training sample not been there."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Categorical, Float, Int
from xaikit.influence.loss_gradients import LossGradients, SampleLoss, WeightDirection, dot
from xaikit.influence.result import Influences, names_of

Product = Callable[[WeightDirection], WeightDirection]


@torch.inference_mode(mode=False)
def influence_function(  # noqa: PLR0913
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    damping: float = 0.01,
    curvature: str = "gauss_newton",
    layers: Any = None,
    head: str | int = "logits",
    loss: SampleLoss | None = None,
    max_iter: int = 100,
    tolerance: float = 1e-3,
    batch_size: int = 128,
    progress: bool = True,
) -> Influences:
    """How much the loss of each test sample would rise if a training sample were left out (Koh and Liang 2017).

    grad L(test)' (G + damping I)^-1 grad L(train sample) / n, with G the curvature of the mean training loss: its
    Gauss-Newton matrix, which has no negative direction, or its Hessian. The system is solved for each test sample by
    conjugate gradients; each iteration goes once through the training data. No matrix is made, so any number of weights
    will do; with `layers` the last layer alone is faster, and the theory, which asks for a convex loss, holds better.

    Args:
        model: a trained classifier; nothing of it is changed.
        train: all of its training samples: (x, y), a loader that does not shuffle, or a data set.
        test: the samples whose predictions are asked for, likewise, with the labels whose loss counts.
        damping: the weight decay of the training (of lambda / 2 |weights|^2 beside the mean loss); without one, a small
            number, which keeps directions in which the loss is flat from growing without bound.
        curvature: "gauss_newton", or "hessian", which is the exact one where the training has reached a minimum, and
            differs most where samples are fitted badly; see the page on influence for both measured.
        layers: modules whose weights count, a name or several; None for all.
        head: which output holds the logits.
        loss: function (output, labels) -> (N,), convex in the output; None for the cross-entropy.
        max_iter: iterations for a test sample at most.
        tolerance: of the solution, relative; it is told where it is not reached.
        batch_size: samples in a pass.
        progress: show a progress bar.

    Returns:
        Influences, (test samples, training samples), in units of the loss.

    Raises:
        InvalidInputError: for a damping that is not positive, a loader that shuffles, labels that are no classes, and
            a Hessian that has a negative direction.
        UnknownNameError: for a layer that is not there.
    """
    damping, tolerance = Float(gt=0).check(damping, "damping"), Float(gt=0).check(tolerance, "tolerance")
    max_iter = Int(ge=1).check(max_iter, "max_iter")
    curvature = Categorical("gauss_newton", "hessian").check(curvature, "curvature")
    gradients = LossGradients(model, layers, head=head, loss=loss, batch_size=batch_size)
    count = sum(batch.size for batch in gradients.batches(train, "train"))

    product = gradients.hessian_product if curvature == "hessian" else gradients.curvature_product

    def damped_product(direction: WeightDirection) -> WeightDirection:
        total = tuple(damping * d for d in direction)
        for batch in gradients.batches(train, "train"):
            part = product(batch, direction)
            total = tuple(t + p / count for t, p in zip(total, part, strict=True))
        return total

    solutions, short = [], 0
    with tqdm(disable=not progress, desc="influence", unit="iteration") as bar:
        for gradient in gradients.of_data(test, "test"):
            solution, reached = conjugate_gradients(damped_product, gradient, max_iter, tolerance, bar.update)
            solutions.append(solution)
            short += not reached
    if short:
        warnings.warn(
            f"influence_function: {short} of {len(solutions)} test samples did not reach the tolerance {tolerance:g} "
            f"in {max_iter} iterations; raise max_iter or damping, or name fewer layers=",
            stacklevel=2,
        )
    values = torch.cat([gradients.products(b, solutions) for b in gradients.batches(train, "train")], 1).cpu() / count
    return Influences(values, "influence function", names_of(train, count))


def conjugate_gradients(
    product: Product, right: WeightDirection, max_iter: int, tolerance: float, tick: Callable[[], object] = lambda: None
) -> tuple[WeightDirection, bool]:
    """Solve A s = right for a positive definite A.

    Args:
        product: s -> A s.
        right: the right side.
        max_iter: iterations at most.
        tolerance: largest length of the remainder over that of `right`.
        tick: called in each iteration.

    Returns:
        The solution, and whether it reached the tolerance.

    Raises:
        InvalidInputError: for an A that is not positive definite.
    """
    solution = tuple(torch.zeros_like(r) for r in right)
    remainder = direction = right
    size = begin = dot(right, right)
    for _ in range(max_iter):
        if size <= tolerance**2 * begin:
            return solution, True
        image = product(direction)
        bend = dot(direction, image)
        if bend <= 0:
            raise InvalidInputError(
                "the Hessian of the training loss has a negative direction at these weights, so the model is at no "
                "minimum of it; train further, raise damping, or take curvature='gauss_newton'"
            )
        step = size / bend
        solution = tuple(s + step * d for s, d in zip(solution, direction, strict=True))
        remainder = tuple(r - step * i for r, i in zip(remainder, image, strict=True))
        before, size = size, dot(remainder, remainder)
        direction = tuple(r + size / before * d for r, d in zip(remainder, direction, strict=True))
        tick()
    return solution, bool(size <= tolerance**2 * begin)

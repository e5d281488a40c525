"""The influence function: what the loss of a test sample would be had a training sample not been there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Categorical, Float, Int
from xaikit.influence.loss_gradients import LossGradients, SampleLoss, WeightDirection, dot
from xaikit.influence.result import Influences, names_of

Product = Callable[[WeightDirection], WeightDirection]

AT_MINIMUM = 0.1  # of the loss's gradient is at most left beside the decay's
UNDECAYED = 0.01  # of the others' decay, where a common shift of all biases changes nothing
DAMPING = 0.01  # where the weights tell none
NO_MINIMUM = (
    "influence_function: the weights are at no minimum of the training loss that a weight decay would explain, so {} "
    "with a damping of {:g} stands in for the curvature, and the order is a hint. Train further, or give "
    "curvature= and damping="
)


class NegativeDirectionError(InvalidInputError):
    """A curvature that has a negative direction: a saddle, no minimum."""


@torch.inference_mode(mode=False)
def influence_function(  # noqa: PLR0913
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    damping: float | None = None,
    curvature: str = "auto",
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
    Hessian, or its Gauss-Newton matrix, which has no negative direction. The system is solved for each test sample by
    conjugate gradients; each iteration goes once through the training data. No matrix is made, so any number of weights
    will do; with `layers` the last layer alone is faster, and the theory, which asks for a convex loss, holds better.

    It is right where the training has reached a minimum and one sample more or less moves the weights little. At a
    minimum of mean loss + decay / 2 |weights|^2 the gradient of the loss is -decay * weights, so the weights themselves
    tell whether they are at one, and the decay; see `decay_at_minimum`.

    Args:
        model: a trained classifier; nothing of it is changed.
        train: all of its training samples: (x, y), a loader that does not shuffle, or a data set.
        test: the samples whose predictions are asked for, likewise, with the labels whose loss counts.
        damping: the weight decay of the training (of lambda / 2 |weights|^2 beside the mean loss). None: the one that
            the weights tell at a minimum, elsewhere 0.01. Without a decay a small number keeps directions in which the
            loss is flat from growing without bound.
        curvature: "hessian", the exact one at a minimum; "gauss_newton"; or "auto", which takes the Hessian where the
            weights are at a minimum and it has no negative direction, else the Gauss-Newton matrix, with a warning. The
            page on influence has both measured.
        layers: modules whose weights count, a name or several; None for all.
        head: which output holds the logits.
        loss: function (output, labels) -> (N,), convex in the output; None for the cross-entropy.
        max_iter: iterations for a test sample at most.
        tolerance: of the solution, relative; it is told where it is not reached.
        batch_size: samples in a pass.
        progress: show a progress bar.

    Returns:
        Influences, (test samples, training samples), in units of the loss.

    Warns:
        UserWarning: where the weights are at no minimum that "auto" or a damping of None could go by, or the tolerance
            is not reached.

    Raises:
        InvalidInputError: for a damping that is not positive, a loader that shuffles, labels that are no classes, and
            a Hessian that has a negative direction.
        UnknownNameError: for a layer that is not there.
    """
    damping = None if damping is None else Float(gt=0).check(damping, "damping")
    tolerance, max_iter = Float(gt=0).check(tolerance, "tolerance"), Int(ge=1).check(max_iter, "max_iter")
    curvature = Categorical("auto", "gauss_newton", "hessian").check(curvature, "curvature")
    gradients = LossGradients(model, layers, head=head, loss=loss, batch_size=batch_size)
    count = sum(batch.size for batch in gradients.batches(train, "train"))
    tests = gradients.of_data(test, "test")
    kinds = [curvature]
    dampings: Sequence[Tensor | float] = [DAMPING if damping is None else damping] * len(gradients.weights)
    if damping is None or curvature == "auto":
        decays = decay_at_minimum(gradients.weights, gradients.mean_gradient(train))
        if decays is None:
            matrix = "the Hessian" if curvature == "hessian" else "the Gauss-Newton matrix"
            warnings.warn(NO_MINIMUM.format(matrix, dampings[0]), stacklevel=2)
        elif damping is None:
            dampings = decays
        if curvature == "auto":
            kinds = ["gauss_newton"] if decays is None else ["hessian", "gauss_newton"]

    def solved(kind: str) -> list[tuple[WeightDirection, bool]]:
        product = gradients.hessian_product if kind == "hessian" else gradients.curvature_product

        def damped_product(direction: WeightDirection) -> WeightDirection:
            total = tuple(scale * d for scale, d in zip(dampings, direction, strict=True))
            for batch in gradients.batches(train, "train"):
                part = product(batch, direction)
                total = tuple(t + p / count for t, p in zip(total, part, strict=True))
            return total

        with tqdm(disable=not progress, desc="influence", unit="iteration") as bar:
            return [conjugate_gradients(damped_product, g, max_iter, tolerance, bar.update) for g in tests]

    try:
        results = solved(kinds[0])
    except NegativeDirectionError:
        if len(kinds) == 1:
            raise
        warnings.warn(
            "influence_function: the Hessian of the training loss has a negative direction at these weights; the "
            "Gauss-Newton matrix stands in for it. Take the order as a hint, or train further",
            stacklevel=2,
        )
        results = solved(kinds[1])
    solutions, short = [solution for solution, _ in results], sum(not reached for _, reached in results)
    if short:
        warnings.warn(
            f"influence_function: {short} of {len(solutions)} test samples did not reach the tolerance {tolerance:g} "
            f"in {max_iter} iterations; raise max_iter or damping, or name fewer layers=",
            stacklevel=2,
        )
    values = torch.cat([gradients.products(b, solutions) for b in gradients.batches(train, "train")], 1).cpu() / count
    return Influences(values, "influence function", names_of(train, count))


def decay_at_minimum(weights: WeightDirection, gradient: WeightDirection) -> WeightDirection | None:
    """The weight decay of which the weights are at a minimum, one number for each of them; None where there is none.

    The decay is that of all weights, or, as is customary, of matrices and kernels alone (no biases, no norms).

    Args:
        weights: of the trained model.
        gradient: of the mean training loss.
    """
    size = dot(gradient, gradient)
    best = size * AT_MINIMUM**2
    decays = None
    for least in (0, 2):
        decayed = tuple(w.detach() if w.ndim >= least else torch.zeros_like(w) for w in weights)
        decay = -dot(gradient, decayed) / dot(decayed, decayed)
        remainder = tuple(g + decay * w for g, w in zip(gradient, decayed, strict=True))
        if decay > 0 and dot(remainder, remainder) < best:
            best = dot(remainder, remainder)
            decays = tuple(decay if w.ndim >= least else UNDECAYED * decay for w in weights)
    return decays


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
            raise NegativeDirectionError(
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

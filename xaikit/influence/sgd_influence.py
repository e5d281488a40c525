"""SGD-influence: what the loss of a test sample would be had the recorded training gone without a sample."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.core.arrays import to_tensor
from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.model_copy import trainable_copy
from xaikit.core.params import Float
from xaikit.influence.checkpoints import load_weights
from xaikit.influence.loss_gradients import LossGradients, SampleLoss, WeightDirection, dot
from xaikit.influence.result import Influences, names_of

MISSED = 0.1  # of the last step's length is at most missed by a record that fits


class RecordedStep(NamedTuple):
    """A step of the training: weights before it, learning rate, its samples."""

    weights: Mapping[str, Tensor] | str | Path
    rate: float
    rows: Tensor


@torch.inference_mode(mode=False)
def sgd_influence(  # noqa: PLR0913
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    steps: Sequence[tuple[Any, float, Any]],
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    head: str | int = "logits",
    loss: SampleLoss | None = None,
    batch_size: int = 128,
    progress: bool = True,
) -> Influences:
    """How much the loss of each test sample would rise had the SGD gone without a training sample (Hara et al. 2019).

    Without the sample, each step that held it would have gone another way, and each later step would have begun
    elsewhere. `tracin` counts the first alone; here the second is carried through: from the last step t to the first,
    with u the gradient of the test loss by the weights after it and B_t its batch,

        influence += rate_t / |B_t| <u, grad L(sample)>,  u <- u - rate_t H_t u

    where H_t is the Hessian of the batch's mean loss at the weights before the step, plus the weight decay. So it is
    the exact first derivative by the sample's weight in the loss, for a net at any point of its training, and for any
    loss. It needs each step. (Source: https://arxiv.org/abs/1906.08473, there without momentum.)

    Args:
        model: a classifier after the last step; nothing of it is changed.
        train: the training samples: (x, y), a loader that does not shuffle, or a data set. They are held in memory.
        test: the samples whose predictions are asked for, likewise, with the labels whose loss counts.
        steps: each step of `torch.optim.SGD` in its order as (weights before it, a state dict or the file of one;
            learning rate; the numbers of the training samples in its batch, None for all). The step follows the mean
            loss of its batch.
        momentum: of the optimiser.
        weight_decay: of the optimiser.
        head: which output holds the logits.
        loss: function (output, labels) -> (N,); None for the cross-entropy.
        batch_size: samples in a pass.
        progress: show a progress bar.

    Returns:
        Influences, (test samples, training samples), in units of the loss; 0 for a sample that no step held.

    Warns:
        UserWarning: where training samples stand in no step, or the last step does not lead to the model's weights, as
            with another optimiser, dropout or augmentation.

    Raises:
        InvalidInputError: for a loader that shuffles, labels that are no classes, no step, a step with samples that are
            not there or with weights that do not fit.
        InvalidTypeError: for a step of another form.

    >>> x, y, model, steps = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1]), nn.Linear(3, 2), []
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> for rows in (range(0, 4), range(2, 6)):
    ...     steps.append(({k: v.clone() for k, v in model.state_dict().items()}, 0.1, rows))
    ...     optimizer.zero_grad()
    ...     nn.functional.cross_entropy(model(x[list(rows)]), y[list(rows)]).backward()
    ...     optimizer.step()
    >>> sgd_influence(model, (x, y), (x[:2], y[:2]), steps=steps, progress=False)
    Influences(SGD-influence: 6 training samples on 2 test samples)
    """
    momentum = Float(ge=0, lt=1).check(momentum, "momentum")
    weight_decay = Float(ge=0).check(weight_decay, "weight_decay")
    then = trainable_copy(model)
    gradients = LossGradients(then, head=head, loss=loss, batch_size=batch_size)
    batches = list(gradients.batches(train, "train"))
    count = sum(batch.size for batch in batches)
    record = [_read_step(step, number, count) for number, step in enumerate(steps)]
    if not record:
        raise InvalidInputError("steps must hold at least one (weights before the step, learning rate, samples)")
    unseen = count - len(torch.cat([step.rows for step in record]).unique())
    if unseen:
        warnings.warn(
            f"sgd_influence: {unseen} of {count} training samples stand in no step, so their influence is 0",
            stacklevel=2,
        )
    after = [tuple(u) for u in gradients.of_data(test, "test")]
    if not _leads_to_the_model(gradients, record, batches, momentum, weight_decay):
        warnings.warn(
            "sgd_influence: the last of the steps does not lead to the model's weights, so the record is of another "
            "training. Keep the weights before each step of torch.optim.SGD, and pass its learning rates, momentum= "
            "and weight_decay=; dropout and augmentation are not followed",
            stacklevel=2,
        )
    velocities: list[WeightDirection] = [tuple(torch.zeros_like(w) for w in gradients.weights) for _ in after]
    values = torch.zeros(len(after), count, dtype=after[0][0].dtype, device=after[0][0].device)
    for step in tqdm(record[::-1], disable=not progress, desc="sgd influence", unit="step"):
        load_weights(then, step.weights, "weights of a step")
        # The derivatives of the test losses by the step's velocity, then by the weights before the step.
        velocities = [
            tuple(momentum * v - step.rate * u for v, u in zip(velocity, at, strict=True))
            for velocity, at in zip(velocities, after, strict=True)
        ]
        bent = [tuple(weight_decay * v for v in velocity) for velocity in velocities]
        for numbers, batch in _taken(batches, step.rows):
            products, curved = gradients.products_and_curvature(batch, velocities)
            values.index_add_(1, numbers.to(values.device), -products / len(step.rows))
            bent = [
                tuple(b + c / len(step.rows) for b, c in zip(total, part, strict=True))
                for total, part in zip(bent, curved, strict=True)
            ]
        after = [tuple(u + b for u, b in zip(at, part, strict=True)) for at, part in zip(after, bent, strict=True)]
    return Influences(values.cpu(), "SGD-influence", names_of(train, count))


def _read_step(step: Any, number: int, count: int) -> RecordedStep:
    if not isinstance(step, (tuple, list)) or len(step) != 3:
        raise InvalidTypeError(
            f"a step is (weights before it, learning rate, numbers of its samples or None), got {type(step).__name__}"
            + (f" of {len(step)}" if isinstance(step, (tuple, list)) else "")
        )
    weights, rate, rows = step
    rows = range(count) if rows is None else rows
    rows = to_tensor(list(rows) if isinstance(rows, range) else rows, "steps").cpu().flatten()
    if rows.dtype.is_floating_point or rows.dtype == torch.bool or not len(rows):
        raise InvalidTypeError(f"the samples of step {number} must be whole numbers, one or more, got {step[2]!r}")
    strange = rows[(rows < 0) | (rows >= count)]
    if len(strange):
        raise InvalidInputError(
            f"step {number} names training sample {int(strange[0])}, and train has samples 0 to {count - 1}; pass as "
            "train what the model was trained on, in the order that the numbers go by"
        )
    return RecordedStep(weights, Float(ge=0).check(rate, f"the learning rate of step {number}"), rows.long())


def _taken(batches: Sequence[Batch], rows: Tensor) -> Iterator[tuple[Tensor, Batch]]:
    """Of each batch that holds some of the samples: their numbers and they."""
    begin = 0
    for batch in batches:
        numbers = rows[(rows >= begin) & (rows < begin + batch.size)]
        if len(numbers):
            yield numbers, batch.take(numbers - begin)
        begin += batch.size


def _leads_to_the_model(
    gradients: LossGradients,
    record: Sequence[RecordedStep],
    batches: Sequence[Batch],
    momentum: float,
    weight_decay: float,
) -> bool:
    def weights_at(step: RecordedStep) -> WeightDirection:
        load_weights(gradients.model, step.weights, "weights of a step")
        return tuple(w.detach().clone() for w in gradients.weights)

    final, last = tuple(w.detach().clone() for w in gradients.weights), record[-1]
    velocity = tuple(torch.zeros_like(w) for w in final)
    if momentum and len(record) > 1:
        earlier, before = weights_at(record[-2]), weights_at(last)
        velocity = tuple((e - h) / record[-2].rate for e, h in zip(earlier, before, strict=True))
    before = weights_at(last)
    slope = gradients.mean_gradient([batch for _, batch in _taken(batches, last.rows)])
    moved = tuple(f - h for f, h in zip(final, before, strict=True))
    missed = tuple(
        m + last.rate * (momentum * v + g + weight_decay * h)
        for m, v, g, h in zip(moved, velocity, slope, before, strict=True)
    )
    return bool(dot(missed, missed) <= MISSED**2 * dot(moved, moved))

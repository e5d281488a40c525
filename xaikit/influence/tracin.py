"""TracIn: what each step of training with a sample did to the loss of another one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.model_copy import trainable_copy
from xaikit.core.params import Float
from xaikit.influence.checkpoints import load_weights
from xaikit.influence.loss_gradients import LossGradients, SampleLoss
from xaikit.influence.result import Influences, names_of

Checkpoint = tuple[Mapping[str, Tensor] | str | Path, float]


@torch.inference_mode(mode=False)
def tracin(  # noqa: PLR0913
    model: nn.Module,
    train: Any,
    test: Any,
    *,
    checkpoints: Sequence[Checkpoint] | None = None,
    layers: Any = None,
    head: str | int = "logits",
    loss: SampleLoss | None = None,
    batch_size: int = 128,
    progress: bool = True,
) -> Influences:
    """The influence of training samples by TracIn (Pruthi et al. 2020, TracInCP).

    sum over checkpoints k of lr_k <grad L(train sample), grad L(test sample)>: to first order, how much the steps that
    gradient descent took with the training sample lowered the loss of the test sample. The gradients are exact and by
    all weights, and none is kept for each training sample: one pass for a batch and one product for a test sample.

    Args:
        model: a classifier; its own weights are not changed.
        train: the training samples: (x, y), a loader that does not shuffle, or a data set.
        test: the samples whose predictions are asked for, likewise, with the labels whose loss counts.
        checkpoints: weights during training, each as a state dict or the file of one, with the learning rate there.
            None takes the model as it is, with a rate of 1.
        layers: modules whose weights count, a name or several; None for all.
        head: which output holds the logits.
        loss: function (output, labels) -> (N,); None for the cross-entropy.
        batch_size: samples in a pass.
        progress: show a progress bar.

    Returns:
        Influences, (test samples, training samples), in units of the loss.

    Raises:
        InvalidInputError: for a loader that shuffles, labels that are no classes, no checkpoint.
        UnknownNameError: for a layer that is not there.

    >>> x, y = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 0, 1])
    >>> tracin(nn.Linear(3, 2), (x, y), (x[:2], y[:2]), progress=False)
    Influences(TracIn: 6 training samples on 2 test samples)
    """
    checkpoints = None if checkpoints is None else list(checkpoints)
    if checkpoints is not None and not checkpoints:
        raise InvalidInputError(
            "checkpoints must hold at least one (weights, learning rate); None takes the model as it is"
        )
    total: Tensor | None = None
    with tqdm(
        [None] if checkpoints is None else checkpoints, disable=not progress, desc="tracin", unit="checkpoint"
    ) as bar:
        for checkpoint in bar:
            then, rate = (model, 1.0) if checkpoint is None else _as_it_was(model, checkpoint)
            gradients = LossGradients(then, layers, head=head, loss=loss, batch_size=batch_size)
            test_gradients = gradients.of_data(test, "test")
            values = torch.cat(
                [gradients.products(b, test_gradients) for b in gradients.batches(train, "train")], 1
            ).cpu()
            total = rate * values if total is None else total + rate * values
    assert total is not None  # noqa: S101 - for the type checker
    return Influences(total, "TracIn", names_of(train, total.shape[1]))


def _as_it_was(model: nn.Module, checkpoint: Any) -> tuple[nn.Module, float]:
    if not isinstance(checkpoint, (tuple, list)) or len(checkpoint) != 2:
        raise InvalidTypeError(f"a checkpoint is (weights, learning rate), got {type(checkpoint).__name__}")
    weights, rate = checkpoint
    then = trainable_copy(model)
    load_weights(then, weights, "weights of a checkpoint")
    return then, Float(ge=0).check(rate, "the learning rate of a checkpoint")

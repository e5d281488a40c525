"""The learning rate of a training, found by short trainings: what suits one model ruins another."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import nn

from xaikit.core.batch import Batch
from xaikit.core.errors import TrainingError
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.mend_measure import Judge

RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # of Adam, from the most careful
STEPS = 60  # of each short training
SAME = 0.02  # of the loss, within which the smaller rate is taken


def with_rate(
    mitigator: Mitigator, fresh: Callable[[], nn.Module], training: Batch, judge: Judge, *, smallest: float = 0.0
) -> Mitigator:
    """The mitigator with the learning rate whose short training leads to the lowest held-out loss.

    The higher of the losses with the shortcut kept and exchanged counts; accuracies would say nothing as long as the
    model still follows the shortcut. A mitigator whose user has set a rate keeps it.

    Args:
        mitigator: with the other settings of its training.
        fresh: makes a model to train.
        training: samples.
        judge: of the held-out samples.
        smallest: rate that is tried: untrained weights learn too little in a short training to tell small ones apart.
    """
    if not mitigator.SETTINGS["lr"].is_default(mitigator.lr):
        return mitigator
    seed = mitigator.random_state or 0
    order = torch.randperm(training.size, generator=torch.Generator().manual_seed(seed))
    few = training.take(order[: STEPS * mitigator.batch_size])
    rates = [rate for rate in RATES if rate >= smallest]
    best, chosen = math.inf, rates[0]
    for rate in rates:
        model = fresh()
        short = mitigator.set_kwargs(lr=rate, n_epochs=1, patience=None, lr_schedule="constant", warmup=0.0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the training proper says the same
                short.fit(model, few, progress=False)
        except TrainingError:  # the rate is too high
            break
        loss = judge.worst_loss(model)
        if loss < best * (1 - SAME) or math.isinf(best):
            best, chosen = loss, rate
        elif loss > 1.2 * best:
            break
    return mitigator.set_kwargs(lr=chosen)

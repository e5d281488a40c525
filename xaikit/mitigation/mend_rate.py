"""The learning rate of a training, found by short trainings: what suits one model ruins another."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from xaikit.core.batch import Batch
from xaikit.core.errors import TrainingError
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.mend_measure import Judge

RATES = (3e-4, 1e-3, 3e-3, 1e-2)  # of Adam, from the most careful
STEPS = 60  # of each short training
DOUBLED = 2  # times that they are made twice as long, where no model has learnt anything
SAME = 0.02  # of the loss, within which the smaller rate is taken
LEARNT = 0.95  # of the loss of always guessing by how frequent the classes are; above it nothing has been learnt
SHORT: dict[str, Any] = {"patience": None, "warmup": 0.0}


def with_rate(
    mitigator: Mitigator, fresh: Callable[[], nn.Module], training: Batch, judge: Judge, *, smallest: float = 0.0
) -> Mitigator:
    """The mitigator with the learning rate whose short training leads to the lowest held-out loss.

    The higher of the losses with the shortcut kept and exchanged counts; accuracies would say nothing as long as the
    model still follows the shortcut. Where none of the models has learnt anything, as untrained ones in few steps, the
    trainings are made longer. A mitigator whose user has set a rate keeps it.

    Args:
        mitigator: with the other settings of its training.
        fresh: makes a model to train.
        training: samples.
        judge: of the held-out samples.
        smallest: rate that is tried: untrained weights learn too little in a short training to tell small ones apart.
    """
    if not mitigator.SETTINGS["lr"].is_default(mitigator.lr):
        return mitigator
    rates = [rate for rate in RATES if rate >= smallest]
    order = torch.randperm(training.size, generator=torch.Generator().manual_seed(mitigator.random_state or 0))
    best, chosen = math.inf, rates[0]
    for doubled in range(DOUBLED + 1):
        rows = STEPS * 2**doubled * mitigator.batch_size
        few = training.take(order[:rows])
        short = mitigator.set_kwargs(n_epochs=max(1, round(rows / few.size)), **SHORT)
        best, chosen = _best_rate(short, rates, fresh, few, judge)
        if best < LEARNT * judge.guessing:
            break
    return mitigator.set_kwargs(lr=chosen)


def _best_rate(
    short: Mitigator, rates: list[float], fresh: Callable[[], nn.Module], few: Batch, judge: Judge
) -> tuple[float, float]:
    """The lowest held-out loss, and the smallest rate that leads to about that."""
    best, chosen = math.inf, rates[0]
    for rate in rates:
        model = fresh()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the training proper says the same
                short.set_kwargs(lr=rate).fit(model, few, progress=False)
        except TrainingError:  # the rate is too high
            break
        loss = judge.worst_loss(model)
        if loss < best * (1 - SAME) or math.isinf(best):
            best, chosen = loss, rate
        elif loss > 1.2 * best:
            break
    return best, chosen

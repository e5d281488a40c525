"""The learning rate of a training: several begin it, and the best goes on. What suits one model ruins another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from xaikit.core.batch import Batch
from xaikit.core.errors import TrainingError
from xaikit.core.process_wide import warnings_ignored
from xaikit.core.results import Stopped
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.mend_measure import Judge
from xaikit.mitigation.mend_store import TryStore

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # of Adam
MIDDLE = 3e-3  # where the search begins
SHARE = 0.2  # rates are compared after this share of the epochs; at half of it small rates are often ahead
SAME = 0.02  # two rates whose losses differ by less than this share are equally good
LEARNT = 0.95  # above this share of the loss of guessing by class frequencies nothing has been learnt


class Interrupted(Exception):
    """Ctrl-C came while rates were compared."""


class Paused(Exception):
    """A training has come as far as it should for now."""


class RateRace:
    """Trainings that differ by their learning rate alone, each begun as if it were the only one.

    All that the search looks at are the first epochs of the training itself, so the best one goes on from its
    checkpoint. A short training of its own, whose rate falls to 0 at its end, would prefer rates that are too small: a
    fooled model first has to get off the shortcut, and learns the rest only then.

    Args:
        mitigator: with the other settings of its training.
        fresh: makes a model to train.
        training: samples.
        judge: of the held-out samples.
        store: where the training with each rate keeps its checkpoint.
        key: of the try there.
        fit_options: of `Mitigator.fit`.
    """

    def __init__(  # noqa: PLR0913
        self,
        mitigator: Mitigator,
        fresh: Callable[[], nn.Module],
        training: Batch,
        judge: Judge,
        store: TryStore,
        key: str,
        fit_options: dict[str, Any],
    ) -> None:
        self._mitigator, self._fresh, self._training, self._judge = mitigator, fresh, training, judge
        self._store, self._key, self._fit_options = store, key, fit_options

    def winner(self) -> float:
        """The rate that leads to the lowest held-out loss.

        The higher of the losses with the shortcut kept and exchanged counts; accuracies would say nothing as long as
        the model still follows the shortcut. From a middle rate the search goes up as long as that helps. Where it does
        not, or nothing has been learnt, it goes down in the same way.

        Raises:
            Interrupted: by Ctrl-C.
        """
        losses: dict[float, float] = {}
        middle = RATES.index(MIDDLE)
        for rate in RATES[middle:]:
            if not self._helps(rate, losses):
                break
        if len(losses) <= 2 or not self._have_learnt(losses):
            for rate in reversed(RATES[:middle]):
                if not self._helps(rate, losses) and self._have_learnt(losses):
                    break
        return min(losses, key=losses.__getitem__)

    def _helps(self, rate: float, losses: dict[float, float]) -> bool:
        """Train with another rate; whether it is better than all before."""
        best = min(losses.values(), default=math.inf)
        losses[rate] = self._loss(rate)
        for behind in sorted(losses, key=losses.__getitem__)[1:]:
            self._store.drop(self._key, behind)  # a large model's take much memory
        return losses[rate] < best * (1 - SAME) or (len(losses) == 1 and not math.isinf(losses[rate]))

    def _have_learnt(self, losses: dict[float, float]) -> bool:
        return min(losses.values()) < LEARNT * self._judge.guessing

    def _loss(self, rate: float) -> float:
        """The held-out loss after the first epochs; infinite where the rate is too high."""
        name = f"{self._key} lr={rate:g}"
        loss = self._store.loss(name)
        if loss is None:
            loss = self._trained(rate, max(1, round(SHARE * self._mitigator.n_epochs)))
            loss = loss if math.isfinite(loss) else math.inf
            self._store.keep_loss(name, loss)
        return loss

    def _trained(self, rate: float, epochs: int) -> float:
        """Train at a rate until some epochs are done, and measure it."""
        losses: list[float] = []

        def look(row: dict[str, float], model: nn.Module) -> None:
            if row["epoch"] >= epochs:
                losses.append(self._judge.worst_loss(model))
                raise Paused

        options = {"checkpoint": self._store.checkpoint(self._key, rate), "on_epoch": look, **self._fit_options}
        model = self._fresh()
        try:
            with warnings_ignored():  # the rest of the training says the same
                history = self._mitigator.set_kwargs(lr=rate).fit(model, self._training, progress=False, **options)
        except Paused:
            return losses[0]
        except TrainingError:
            return math.inf
        if history.stopped == Stopped.INTERRUPTED:
            raise Interrupted
        return self._judge.worst_loss(model)  # it ended early

"""The tries of `mend`: trained, measured and kept one after the other, and the best of them chosen."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from xaikit.core.errors import InvalidInputError, TrainingError
from xaikit.core.model_copy import trainable_copy
from xaikit.core.model_device import model_device
from xaikit.core.percentages import percent
from xaikit.core.process_wide import warnings_ignored
from xaikit.core.results import Stopped
from xaikit.core.spec_strings import split_spec
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.budget import Budget
from xaikit.mitigation.checks import warn_of_untrained
from xaikit.mitigation.mend_data import CONCEPT, GROUPS, MendData
from xaikit.mitigation.mend_measure import Judge, Measured
from xaikit.mitigation.mend_methods import fresh_model, halfway, spec_string
from xaikit.mitigation.mend_rate import Interrupted, RateRace
from xaikit.mitigation.mend_result import ROUNDING, MendTry
from xaikit.mitigation.mend_store import TryStore, key_of
from xaikit.mitigation.reliance import RELIES

UNCHANGED = "unchanged"
HALFWAY = "from weights halfway to fresh ones, "
GAIN = 0.01  # a training whose exchanged accuracy gains less than this is no better than the model as it came
COLLAPSED = 0.95  # above this share of predictions of one class the model has collapsed
# Beginning with several learning rates and going on with the best takes so many times the steps of one training.
RACED = 1.4
# Warnings of a training that repeat what the figures and the note of the try say, or what was said before.
SAID_BEFORE = (
    r"(the training collapsed|after \w+ [\d.]+ % of the predictions still follow|\d+ of the model's \d+ outputs)"
)
TIMED_STEPS = 3  # steps that are taken to see how long a training would be


class SearchOptions(NamedTuple):
    """What `mend` was asked for.

    Attributes:
        from_scratch: as for `mend`.
        max_loss: likewise.
        head: likewise.
        seed: likewise.
        progress: likewise.
    """

    from_scratch: Any
    max_loss: float
    head: str | int
    seed: int
    progress: bool

    @property
    def anew(self) -> bool:
        """Whether each training begins with untrained weights."""
        return self.from_scratch is not False


class Attempt(NamedTuple):
    """One training that may be tried.

    Attributes:
        mitigator: with the settings of its training.
        halfway: whether it begins with weights halfway to fresh ones.
        weaker: whether it is an earlier one with a smaller weight, which helps where that one lost more than the
            shortcut, or never left it, and not where it left too little.
    """

    mitigator: Mitigator
    halfway: bool = False
    weaker: bool = False

    @property
    def key(self) -> str:
        """What tells it from others."""
        return f"{HALFWAY if self.halfway else ''}{key_of(self.mitigator)}"


class MendSearch:
    """The tries of one call.

    Args:
        model: of the user; it stays as it is.
        data: samples and shortcut.
        options: of the call.
    """

    def __init__(self, model: nn.Module, data: MendData, options: SearchOptions) -> None:
        self._model, self._data, self._options = model, data, options
        self._judge = Judge(data, options.head, options.seed)
        self._keys: list[str] = [""]
        self._rates: dict[Any, float] = {}
        self.first = self._judge.measure(model)
        self.tries = [_row(UNCHANGED, self.first, data)]
        self.store = TryStore(None, {})
        self.stopped = Stopped.DONE

    def run(self, attempts: list[Attempt], budget: Budget) -> None:
        """Try one after the other, until one is good, the budget is used up, or none is left.

        Args:
            attempts: in their order, with the settings of their training.
            budget: what may be spent.

        Raises:
            InvalidInputError: for a budget that is too small for one training.
            InvalidInputError, TrainingError: where every one fails, the error of the first.
        """
        failed: list[tuple[Mitigator, Exception]] = []
        self._fresh()  # raises now if the model cannot be copied or initialised again
        warn_of_untrained(torch.bincount(self._data.training.labels, minlength=self.first.n_outputs), stacklevel=4)
        with tqdm(total=len(attempts), disable=not self._options.progress, unit="method", desc="mend") as bar:
            for attempt in attempts:
                if attempt.weaker and not self._went_too_far():
                    bar.update()
                    continue
                if not self._affords(attempt, budget, len(self.tries) - 1 + len(failed)):
                    self.stopped = Stopped.OUT_OF_TIME
                    break
                try:
                    self._try(attempt)
                except (InvalidInputError, TrainingError) as err:
                    failed.append((attempt.mitigator, err))
                if self.stopped == Stopped.INTERRUPTED:
                    break
                bar.update()
                if self._is_enough():
                    break
            else:
                self.stopped = Stopped.EXHAUSTED
        if failed and len(self.tries) == 1:
            raise failed[0][1]
        for mitigator, error in failed:
            warnings.warn(f"{spec_string(mitigator)} was left out: {error}", stacklevel=3)

    @property
    def needs_mending(self) -> bool:
        """Whether the model as it came is less right with the shortcut exchanged, or in a group, beyond chance."""
        return not self._is_good(self.tries[0])

    def best(self) -> int:
        """The number of the chosen try.

        What the shortcut told cannot be kept, so the loss with it kept is measured against the most accurate try that
        does not rely on it. Chosen is the highest accuracy on exchanged samples among those that lose no more than
        allowed; where all rely on it, among all. A training that gains nothing, neither accuracy nor freedom from the
        shortcut, is not chosen. Where groups are known, the accuracy in the worst of them counts; where nothing else is
        known, it alone.
        """
        trained = range(1, len(self.tries))
        if not trained:
            return 0
        free = [i for i in trained if self._is_free(self.tries[i])]
        most = max((self.tries[i].accuracy_kept for i in free), default=0.0)
        least = most - self._options.max_loss - ROUNDING
        allowed = [i for i in free if self.tries[i].accuracy_kept >= least] or list(trained)
        if self._data.shortcut.kind == GROUPS:
            allowed = free or list(trained)
        chosen = max(allowed, key=lambda i: self.tries[i].score)
        first, last = self.tries[0], self.tries[chosen]
        # Where a rare class relied on the shortcut, the accuracy over all samples hardly rises.
        gains = last.score >= first.score + GAIN or (first.relies and self._is_free(last))
        return chosen if gains or self._options.anew else 0

    def model_of(self, number: int) -> nn.Module:
        """A copy of the user's model with the weights of a try, in evaluation mode.

        Args:
            number: of the try.
        """
        if number == 0:
            return trainable_copy(self._model)
        return self.store.load(self._keys[number], self._fresh()).eval()

    def _fresh(self) -> nn.Module:
        return fresh_model(self._model, self._options.from_scratch, self._options.seed)

    def _try(self, attempt: Attempt) -> None:
        """One training, measured."""
        mitigator, key = attempt.mitigator, attempt.key
        row = self.store.find(key)
        if row is None:
            started = time.monotonic()
            model = halfway(self._model, self._options.seed) if attempt.halfway else self._fresh()
            options = self._fit_options(mitigator)
            if self._data.shortcut.kind == CONCEPT:
                mitigator = mitigator.set_kwargs(patience=None)  # there are no exchanged samples to stop by
            try:
                chosen = self._with_rate(mitigator, key, options)
            except Interrupted:
                self.stopped = Stopped.INTERRUPTED
                return
            with warnings_ignored(SAID_BEFORE):
                checkpoint = self.store.checkpoint(key, chosen.lr)
                self.store.close()
                progress = self._options.progress
                history = chosen.fit(model, self._data.training, checkpoint=checkpoint, progress=progress, **options)
            if history.stopped == Stopped.INTERRUPTED:
                self.stopped = Stopped.INTERRUPTED
                return
            measured, seconds = self._judge.measure(model), time.monotonic() - started
            method = (HALFWAY if attempt.halfway else "") + spec_string(chosen)
            row = _row(method, measured, self._data, epochs=len(history.epochs), seconds=seconds)
            if worse := self._less_right(row):
                row = dataclasses.replace(row, note=row.note or worse)
            self.store.keep(key, row, model)
        if (kind := _kind(mitigator)) is not None:
            self._rates[kind] = float(split_spec(row.method)[1].get("lr", mitigator.lr))
        self.tries.append(row)
        self._keys.append(key)

    def _with_rate(self, mitigator: Mitigator, key: str, options: dict[str, Any]) -> Mitigator:
        """The mitigator with a learning rate: that of an earlier try of its kind, whose weight alone may differ."""
        kind = _kind(mitigator)
        if kind is None:
            return mitigator
        rate = self._rates.get(kind)
        if rate is None:
            training, judge = self._data.training, self._judge
            race = RateRace(mitigator, self._fresh, training, judge, self.store, key, options)
            rate = race.winner()
        return mitigator.set_kwargs(lr=rate)

    def _fit_options(self, mitigator: Mitigator) -> dict[str, Any]:
        by_groups = {"groups": self._data.groups} if mitigator.TAKES_GROUPS else {}
        if self._data.shortcut.kind == CONCEPT:
            return by_groups
        validation, groups = self._judge.validation
        return {"validation": validation, "validation_groups": groups, **by_groups}

    def _less_right(self, row: MendTry) -> str:
        """A note where a training ends below the model as it came, beyond chance: a shortcut is not all it lost."""
        first, share = self.tries[0].score, row.score
        chance = 2 * math.sqrt((first * (1 - first) + share * (1 - share)) / self._data.held_out.size)
        if share >= first - max(self._options.max_loss, chance):
            return ""
        return (
            f"it is less right than the model as it came, also with the shortcut exchanged ({percent(share)} against "
            f"{percent(first)}): the training may be too short (epochs: {row.epochs}; set "
            "n_epochs= higher)"
        )

    def _is_free(self, row: MendTry) -> bool:
        """Whether the shortcut makes no difference to a try: none beyond what is allowed, but for chance."""
        error = math.sqrt(row.changed / self._data.held_out.size)
        gap = row.accuracy_kept - row.accuracy_exchanged
        return not row.note and not row.relies and gap <= max(self._options.max_loss + error, 2 * error)

    def _is_good(self, row: MendTry) -> bool:
        """Whether the shortcut makes no difference, and the worst group is as right as all, but for chance."""
        if self._data.held_groups is None:
            return self._is_free(row)
        smallest = min(Counter(self._data.held_groups).values())
        chance = 2 * math.sqrt(row.worst_group * (1 - row.worst_group) / smallest)
        gap = row.accuracy_exchanged - row.worst_group
        return self._is_free(row) and gap <= max(self._options.max_loss, min(chance, RELIES))

    def _is_enough(self) -> bool:
        """Whether one is free of the shortcut."""
        return any(self._is_good(row) for row in self.tries[1:])

    def _went_too_far(self) -> bool:
        """Whether a try lost more than the shortcut or never left it; or there is none."""
        return all(row.note or row.relies for row in self.tries[1:])

    def _affords(self, attempt: Attempt, budget: Budget, number: int) -> bool:
        """Whether another training is within the budget."""
        mitigator = attempt.mitigator
        if self.store.find(attempt.key) is not None:
            return True
        if budget.trainings is not None:
            return number < budget.trainings
        if budget.seconds == float("inf"):
            return True
        needed = self._seconds_of(mitigator)
        if needed <= budget.left:
            return True
        if number == 0:
            raise InvalidInputError(
                f"a budget of {budget.seconds:.3g} s is too small for one training, which takes about {needed:.0f} s "
                f"({mitigator.n_epochs} epochs); allow more, or set n_epochs="
            )
        return False

    def _seconds_of(self, mitigator: Mitigator) -> float:
        """How long a training takes at most, from some of its steps."""
        model, training = self._fresh(), self._data.training
        rows = torch.arange(min(mitigator.batch_size, training.size), device="cpu")
        device = model_device(model)
        batch = training.take(rows).to(device)
        started = time.monotonic()
        for _ in range(TIMED_STEPS):
            mitigator.loss(model, batch, seed=0).total.backward()
        step = (time.monotonic() - started) / TIMED_STEPS
        kind = _kind(mitigator)
        times = 1.0 if kind is None or kind in self._rates else RACED
        return times * step * mitigator.n_epochs * max(1, training.size // mitigator.batch_size)


def _kind(mitigator: Mitigator) -> tuple[Any, ...] | None:
    """What a learning rate suits; None where the user has set one."""
    is_free = mitigator.SETTINGS["lr"].is_default(mitigator.lr) and isinstance(mitigator.optimizer, str)
    return (type(mitigator), mitigator.optimizer) if is_free else None


def _row(method: str, measured: Measured, data: MendData, *, epochs: int = 0, seconds: float = 0.0) -> MendTry:
    """The line of a model in the table, with a note where something is odd."""
    labels = data.held_out.labels
    commonest = float(torch.bincount(labels).max()) / len(labels)
    note = ""
    if measured.largest >= COLLAPSED and commonest < COLLAPSED - 0.05:
        note = f"it collapsed to one class: {percent(measured.largest)} of its predictions are the same"
    # If nearly all samples are of one class, an accuracy can be little more than that class's share: where 98 % are of
    # one class, 98.2 % is more.
    elif method != UNCHANGED and min(measured.accuracy_exchanged, measured.accuracy_kept) <= commonest + min(
        0.02, 0.1 * (1 - commonest)
    ):
        where = "exchanged" if measured.accuracy_exchanged <= measured.accuracy_kept else "kept"
        note = (
            f"with the shortcut {where} it is no better than always the commonest class ({percent(commonest)}): "
            f"what was named may hold all that matters"
        )
    figures = (measured.accuracy_kept, measured.accuracy_exchanged, measured.changed)
    others = (measured.changed_within, measured.worst_group, measured.reliance_by_class, measured.follows)
    return MendTry(method, *figures, epochs, seconds, note, *others)

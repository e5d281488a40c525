"""The search itself: trials proposed by Optuna, each measured once, whatever is being tuned."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import random
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tqdm import tqdm

from xaikit.core.errors import InvalidInputError, InvalidTypeError, NonFiniteError, TuningError
from xaikit.core.results import Stopped
from xaikit.tuning.dimension import Dimension
from xaikit.tuning.goals import Goal
from xaikit.tuning.optuna_private import disconnect
from xaikit.tuning.rows import SETTINGS, TrialRow, key_of, point_of, row_of, table
from xaikit.tuning.samplers import make_pruner, make_sampler
from xaikit.tuning.space import Point, Space
from xaikit.tuning.study import open_study, quiet

if TYPE_CHECKING:
    import optuna

IntermediateReport = Callable[[float], None]


class Measurement(NamedTuple):
    """The result of measuring a candidate: a number for each goal, and an object that is kept for the best one only."""

    values: list[float]
    artifact: Any = None


class TrialOutcome(NamedTuple):
    """A point that was measured: the trial's number and what came out."""

    trial: int
    values: list[float] | None
    error: str | None
    pruned: bool = False


@dataclasses.dataclass
class Search:
    """A search that can be started, continued, and joined by other processes.

    Attributes:
        space: the settings that vary.
        goals: the objectives.
        measure: a function of the objects at a point, and of a function that takes intermediate values; it returns the
            measurement.
        fingerprint: what must be equal for two searches to share a study, as plain JSON values.
        seed: of the sampler.
        sampler: Optuna's, by name.
        pruner: Optuna's, by name or as an object; None: no trial is stopped early.
    """

    space: Space
    goals: tuple[Goal, ...]
    measure: Callable[[tuple[Any, ...], IntermediateReport | None], Measurement]
    fingerprint: dict[str, Any]
    seed: int = 0
    sampler: str = "tpe"
    pruner: Any = None
    study: optuna.Study = dataclasses.field(init=False)
    outcomes: dict[str, TrialOutcome] = dataclasses.field(default_factory=dict)  # by point
    artifacts: dict[str, Any] = dataclasses.field(default_factory=dict)  # of the start and of the best so far, by point
    cause: Exception | None = None  # of the first trial that failed

    def open(self, storage: Any, name: str | None, *, resume: bool, n_trials: int, rank: int | None = None) -> None:
        """Make the study, or open it to continue, and queue the first points.

        Args:
            storage: where Optuna keeps the study; None: memory.
            name: of the study.
            resume: go on with a study of that name.
            n_trials: number of trials that will be made.
            rank: number of a process that joins others, and queues nothing; None for the first process.
        """
        self.fingerprint["space"] = self.space.describe()
        fingerprint = json.loads(json.dumps(self.fingerprint))
        sampler_of = make_sampler(self.sampler, shared=storage is not None)
        pruner = make_pruner(self.pruner, len(self.goals))
        self.study, self._storage = open_study(
            storage, name, resume, [goal.direction for goal in self.goals], fingerprint
        )
        trials = self.study.get_trials(deepcopy=False)
        self.shared, self._known, self._inside = storage is not None, set[int](), 0
        self._best: tuple[float, str] | None = None
        self._recall(trials)
        running = any(trial.state.name == "RUNNING" for trial in trials)
        joins = f"{socket.gethostname()} {os.getpid()}" if rank is None and running else rank
        offset = 0 if joins is None else zlib.crc32(str(joins).encode())
        self.study.sampler = sampler_of((self.seed + len(trials) + offset) % 2**32)
        self.study.pruner = pruner
        if rank is None:
            self._queue(trials, n_trials)

    def run(self, n_trials: int, timeout: float | None, *, progress: bool, until: int | None = None) -> Stopped:
        """Run trials until enough have finished; return why the search ended.

        Args:
            n_trials: trials to make; in a storage, trials that other processes finish in the meantime count too.
            timeout: seconds after which no new trial starts.
            progress: show a progress bar.
            until: number of finished trials at which the search ends; None: `n_trials` more than now.
        """
        begun, self._before = time.monotonic(), len(self._known)
        self._until = self._before + n_trials if until is None else until
        self._ended: Stopped | None = None
        if self._until <= self._before:
            return Stopped.DONE
        if self._is_used_up():
            return Stopped.EXHAUSTED
        with tqdm(total=self._until - self._before, desc="tune", unit="trial", disable=not progress) as self._bar:
            try:
                self.study.optimize(
                    self._objective, n_trials=self._until - self._before, timeout=timeout, catch=(TuningError,)
                )
            except KeyboardInterrupt:
                if not any(outcome.values for outcome in self.outcomes.values()):
                    raise
                return Stopped.INTERRUPTED
        late = timeout is not None and time.monotonic() - begun >= timeout
        return self._ended or (Stopped.OUT_OF_TIME if late and len(self._known) < self._until else Stopped.DONE)

    def close(self) -> None:
        """Close the connections to the storage; later questions open them again."""
        disconnect(self._storage)

    @property
    def rows(self) -> list[TrialRow]:
        """The table of all trials."""
        return table(self.study.get_trials(deepcopy=False), self.space, self.goals)

    @property
    def undominated(self) -> set[int] | None:
        """Numbers of the trials on the Pareto front; None with one objective."""
        return {trial.number for trial in self.study.best_trials} if len(self.goals) > 1 else None

    def artifact_at(self, point: Point) -> Any:
        """The artifact of the measurement at that point; if another process measured it, it is measured again."""
        key = key_of(point)
        if key not in self.artifacts:
            self.artifacts[key] = self.measure(self.space.make(point), None).artifact
        return self.artifacts[key]

    @property
    def n_finished(self) -> int:
        """Trials that have ended, in this process or another."""
        self._recall(self.study.get_trials(deepcopy=False))
        return len(self._known)

    # ------------------------------------------------------------------ one trial

    def _objective(self, trial: optuna.Trial) -> float | list[float]:
        """One trial: choose a point, measure it unless it is known, and say whether the search goes on."""
        import optuna

        point = self._choose(trial)
        key = key_of(point)
        outcome = self.outcomes.get(key)
        if outcome is None:
            outcome = self._outcome(trial, point, key)
            self._remember(key, point, outcome)
        else:
            trial.set_user_attr("repeats", outcome.trial)
        self._known.add(trial.number)
        self._after()
        if outcome.error is not None:
            trial.set_user_attr("error", outcome.error)
            raise TuningError(outcome.error)
        if outcome.pruned:
            raise optuna.TrialPruned
        if outcome.values is None:
            trial.set_user_attr("nan", True)
            return math.nan
        return outcome.values

    def _choose(self, trial: optuna.Trial) -> Point:
        queued = trial.user_attrs.get(SETTINGS)
        if queued is None:
            return self.space.walk(lambda dim: dim.suggest(trial))

        def suggest_queued(dim: Dimension) -> Any:
            # The sampler learns from a queued trial what lies inside its space.
            label = queued[dim.name]
            if dim.contains(label):
                dim.suggest(trial)
            return label

        self.space.walk(suggest_queued)
        return queued

    def _outcome(self, trial: optuna.Trial, point: Point, key: str) -> TrialOutcome:
        """The outcome of a measurement: values, or an error, since a trial may fail without ending the search."""
        import optuna

        try:
            values, artifact = self.measure(self.space.make(point), self._report(trial, point))
        except optuna.TrialPruned:
            return TrialOutcome(trial.number, None, None, pruned=True)
        except Exception as err:
            wrong_call = isinstance(err, (InvalidInputError, InvalidTypeError)) and not isinstance(err, NonFiniteError)
            if wrong_call and not self.outcomes and not any(part.chosen for part in self.space.parts):
                raise  # the default settings are refused: it is the data or the targets, and no trial would do better
            self.cause = self.cause or err
            return TrialOutcome(trial.number, None, f"{type(err).__name__}: {err}")
        if not all(map(math.isfinite, values)):
            return TrialOutcome(trial.number, None, None)
        if artifact is not None:
            self._keep(key, values[0], artifact)
        return TrialOutcome(trial.number, values, None)

    def _report(self, trial: optuna.Trial, point: Point) -> IntermediateReport | None:
        """A function that takes an intermediate value and ends the trial if the pruner says so, never the first one."""
        import optuna

        if self.pruner is None:
            return None
        steps, is_start = itertools.count(1), point == self.space.start

        def report(value: float) -> None:
            trial.report(value, next(steps))
            if not is_start and trial.should_prune():
                raise optuna.TrialPruned

        return report

    def _keep(self, key: str, value: float, artifact: Any) -> None:
        """Keep the artifacts of the start and of the best so far, and no other."""
        if self._best is None or self.goals[0].better(value, self._best[0]):
            if self._best is not None and self._best[1] != key_of(self.space.start):
                del self.artifacts[self._best[1]]
            self._best = (value, key)
            self.artifacts[key] = artifact
        elif key == key_of(self.space.start):
            self.artifacts[key] = artifact

    def _after(self) -> None:
        """Show progress; stop where enough trials are done or nothing is left to try."""
        if self.shared:
            # Trials that other processes finished count, and their points are not measured again.
            self._recall(self.study.get_trials(deepcopy=False))
        self._bar.n = len(self._known) - self._before
        if self._best is not None:
            self._bar.set_postfix(best=f"{self._best[0]:.4g}", refresh=False)
        self._bar.update(0)
        if len(self._known) >= self._until:
            self.study.stop()
        elif self._is_used_up():
            self._ended = Stopped.EXHAUSTED
            self.study.stop()

    def _is_used_up(self) -> bool:
        if self.sampler == "grid":
            return not self.study.get_trials(deepcopy=False, states=_waiting())
        return self._inside >= self.space.size

    # ------------------------------------------------------------------ earlier outcomes

    def _remember(self, key: str, point: Point, outcome: TrialOutcome) -> None:
        if key not in self.outcomes:
            self.outcomes[key] = outcome
            self._inside += self.space.contains(point)

    def _recall(self, trials: Sequence[optuna.trial.FrozenTrial]) -> None:
        """Take over what an earlier search or another process has measured."""
        for trial in trials:
            if trial.number in self._known or not trial.state.is_finished():
                continue
            self._known.add(trial.number)
            row = row_of(trial, self.space, self.goals)
            if row is not None and row["state"] != "unfinished" and row["repeats"] is None:
                values = trial.values if row["state"] == "complete" else None
                outcome = TrialOutcome(trial.number, values, row["error"], row["state"] == "pruned")
                self._remember(key_of(row["settings"]), row["settings"], outcome)

    def _queue(self, trials: Sequence[optuna.trial.FrozenTrial], n_trials: int) -> None:
        """Queue the start, each object to choose from, and points with one changed setting, for inactive settings."""
        start, moved = self.space.start, self.space.moved()
        points = [start, *self.space.each()]
        if not self.outcomes and self.sampler != "grid" and len(moved) > 1 and n_trials >= 4 * (len(moved) + 1):
            points += moved
        if self.sampler == "grid":
            grid = list(self.space.grid())
            random.Random(self.seed).shuffle(grid)
            points += grid
        waiting = [trial for trial in trials if trial.state.name == "WAITING"]
        keys = {*self.outcomes, *(key_of(point_of(trial, self.space) or {}) for trial in waiting)}
        fresh = {key_of(point): point for point in points if key_of(point) not in keys}
        for point in list(fresh.values())[: max(0, n_trials - len(waiting))]:
            inside: Point = {}

            def note(dim: Dimension, point: Point = point, inside: Point = inside) -> Any:
                if dim.contains(point[dim.name]):
                    inside[dim.key] = point[dim.name]
                return point[dim.name]

            self.space.walk(note)
            self.study.enqueue_trial(inside, user_attrs={SETTINGS: point})


def _waiting() -> tuple[Any, ...]:
    import optuna

    return (optuna.trial.TrialState.WAITING,)


def run_search(  # noqa: PLR0913
    search: Search,
    *,
    n_trials: int,
    timeout: float | None,
    storage: Any,
    study_name: str | None,
    resume: bool,
    progress: bool,
    worker: tuple[int, int] | None = None,
) -> Stopped:
    """Open the study and run it; `worker` = (rank, number of finished trials to reach) joins others.

    Raises:
        TuningError: when no trial gave a number; the message holds the first reason.
    """
    with quiet():
        rank, until = worker if worker is not None else (None, None)
        search.open(storage, study_name, resume=resume, n_trials=n_trials, rank=rank)
        try:
            return search.run(n_trials, timeout, progress=progress, until=until)
        finally:
            search.close()

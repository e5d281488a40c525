"""The training loop; it knows a mitigator's `loss` and nothing of explanations."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.core.errors import InvalidInputError, NonFiniteError, TrainingError
from xaikit.core.results import Stopped
from xaikit.core.structure import flatten
from xaikit.core.value_ranges import ranges_known, read_ranges
from xaikit.mitigation import checkpoints, random_states
from xaikit.mitigation.checks import ClassWatch, CollapseWatch, DoubtWatch, MaskWatch
from xaikit.mitigation.early_stopping import EarlyStopping
from xaikit.mitigation.fabric import OneProcess
from xaikit.mitigation.forward import training_mode
from xaikit.mitigation.guard import Guard, suspects
from xaikit.mitigation.history import History
from xaikit.mitigation.interruption import interruptible
from xaikit.mitigation.optimizers import make_optimizer
from xaikit.mitigation.penalties import REGRESSION
from xaikit.mitigation.sources import InMemorySource, Source, TrainingStep

if TYPE_CHECKING:
    from xaikit.mitigation.base import Loss, Mitigator

MEANS = ("task", "penalty", "total")
NO_STEP = {"task": 0.0, "penalty": 0.0, "total": 0.0, "right": 0.0, "samples": 0.0, "steps": 0.0, "skipped": 0.0}


@dataclasses.dataclass
class TrainingProgress:
    """How far a training has come; a checkpoint holds it as text.

    Attributes:
        epochs: the finished ones, as in `History`.
        step: number of steps done in the present epoch, skipped ones included.
        sums: over the steps of the present epoch.
        seed: of the order, where there is one.
        regression: whether the labels are numbers; the first batch decides it for the whole training.
    """

    epochs: list[dict[str, float]] = dataclasses.field(default_factory=list)
    step: int = 0
    sums: dict[str, float] = dataclasses.field(default_factory=NO_STEP.copy)
    seed: int | None = None
    regression: bool = False


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `Mitigator.fit` other than the data."""

    checkpoint: Path | checkpoints.InMemory | None
    stopping: EarlyStopping
    progress: bool
    on_epoch: Callable[[dict[str, float], nn.Module], Any] | None = None


@torch.inference_mode(False)
@torch.enable_grad()
def train(processes: OneProcess, mitigator: Mitigator, model: nn.Module, source: Source, options: Options) -> History:
    """Train the model in place; see `Mitigator.fit`."""
    device = processes.device(model, mitigator.device)
    optimizer = make_optimizer(
        mitigator.optimizer,
        model,
        lr=mitigator.lr,
        weight_decay=mitigator.weight_decay,
        may_fuse=processes.may_fuse,
    )
    processes.setup(by_sample(mitigator), model, optimizer)
    own_seed = mitigator.random_state is not None or processes.part.world_size > 1
    keep = torch.random.fork_rng() if own_seed else contextlib.nullcontext()
    with training_mode(model), keep, interruptible() as pressed:
        loop = Loop(processes, mitigator, model, source, options, device, optimizer)
        with loop.bar:
            stopped = loop.run(pressed)
    options.stopping.finish(model)
    processes.barrier()
    return History(loop.progress.epochs, stopped, mitigator.random_state)


class Loop:
    """One training."""

    def __init__(
        self,
        processes: OneProcess,
        mitigator: Mitigator,
        model: nn.Module,
        source: Source,
        options: Options,
        device: torch.device,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        self._processes, self._mitigator, self._model, self._source = processes, mitigator, model, source
        self._trained = by_sample(mitigator)
        self._options, self._device, self._optimizer = options, device, optimizer
        self._first_lrs = [group["lr"] for group in optimizer.param_groups]
        self._first = processes.part.rank == 0
        self._guard = Guard(model, optimizer, mitigator.max_skips)
        # In several processes all must draw the same order.
        drawn = processes.part.world_size > 1 and mitigator.random_state is None
        self.progress = TrainingProgress(
            seed=processes.broadcast(int(torch.randint(2**31, (), device="cpu"))) if drawn else mitigator.random_state
        )
        self._began: random_states.RandomState = {}  # the random state when the present epoch began
        self._now: random_states.RandomState | None = None  # the one to go on with, after resuming
        options.stopping.start = processes.broadcast(options.stopping.start)  # until now their weights may differ
        if isinstance(source, InMemorySource):
            self._note_task(source.samples.labels)
        self._data = source.fingerprint() if options.checkpoint is not None else {}
        if options.checkpoint is not None:
            saved = checkpoints.read(options.checkpoint, mitigator, model, self._data)
            if saved is not None:
                self._resume(*saved)
        self._collapse = CollapseWatch()
        self._doubt = DoubtWatch(mitigator) if mitigator.flat_when_sure else None
        # Data in memory were checked as a whole; a loader's batch is checked before it goes to the device.
        self._ranges = read_ranges(source.samples.tensors) if isinstance(source, InMemorySource) else None
        fresh = not isinstance(source, InMemorySource) and not self.progress.epochs and self.progress.step == 0
        self._watch = MaskWatch() if fresh else None
        self._classes = ClassWatch()
        remaining = None
        if source.steps is not None:
            remaining = source.steps * max(0, mitigator.n_epochs - len(self.progress.epochs)) - self.progress.step
        self.bar = tqdm(total=remaining, disable=not (options.progress and self._first), unit="batch")

    def run(self, pressed: threading.Event) -> Stopped:
        """Train all epochs that are left; return why the training ended."""
        last = self._mitigator.n_epochs
        stopping = self._options.stopping
        try:
            while len(self.progress.epochs) < last:
                if stopping.over:
                    return Stopped.EARLY_STOPPING
                if not self._epoch(pressed):
                    self._write()
                    return Stopped.INTERRUPTED
                self._close_epoch(is_last=len(self.progress.epochs) + 1 == last)
                self._write()
                if self._first and self._options.on_epoch is not None:
                    self._options.on_epoch(dict(self.progress.epochs[-1]), self._model)
        except TrainingError:
            self._write()  # the last good state
            raise
        return Stopped.EARLY_STOPPING if stopping.over else Stopped.DONE

    # ------------------------------------------------------------------ one epoch

    def _epoch(self, pressed: threading.Event) -> bool:
        """Train the steps that are left of an epoch; return False after Ctrl-C."""
        number, part, progress = len(self.progress.epochs) + 1, self._processes.part, self.progress
        if self._now is None:
            self._began = random_states.capture(self._source.generators)
        else:
            random_states.restore(self._began, self._source.generators)
        if progress.seed is not None:
            # Each epoch has a seed of its own, so a resumed run draws what the unbroken one would.
            torch.manual_seed(progress.seed * 1_000_003 + number)
        steps = self._source.epoch(number, progress.step, part)
        if self._now is not None:
            random_states.restore(self._now)
            self._now = None
        self.bar.set_description(f"{self._mitigator.NAME or type(self._mitigator).__name__} {number}")
        while True:
            step = next(steps, None)
            try:
                share = self._processes.shares(step)
            except StopIteration:
                return True
            assert step is not None
            interrupted = self._step(step, share, pressed)
            progress.step += 1
            self.bar.update()
            if interrupted:
                return False
            every = self._mitigator.checkpoint_every
            if every is not None and progress.step % every == 0:
                self._write()

    def _step(self, step: TrainingStep, share: Any, pressed: threading.Event) -> bool:
        """Train one step; return whether Ctrl-C came in any process."""
        batch = step.batch.to(self._device)
        weight = self.weight
        self._guard.before()
        ranges = self._ranges or read_ranges(step.batch.tensors)
        with ranges_known(batch.tensors, ranges):
            loss, problem, error = self._try(batch, weight, share)
        contribution, finite = [0.0] * 5, False
        if loss is not None:
            self._note_task(batch.labels)
            values, finite = self._values(loss, batch)
            contribution = contribution if step.is_padding else values
        failed, bad, interrupted, *sums = self._processes.sum(
            [float(error is not None), float(not finite), float(pressed.is_set()), *contribution]
        )
        if error is not None:
            raise error
        if failed:
            raise TrainingError("another process stopped with an error; it says which")
        self._optimizer.zero_grad(set_to_none=True)
        for group, first in zip(self._optimizer.param_groups, self._first_lrs, strict=True):
            group["lr"] = first * self._mitigator.lr_share_at(self._epochs_done)
        passed = not bad
        if passed:
            assert loss is not None
            self._processes.backward(loss.total)
            passed = self._processes.clip(self._mitigator.clip_grad_norm)
            if not passed and self._processes.scaled:
                self._processes.step()  # lowers the scale and leaves the weights alone
                return interrupted > 0
        if passed:
            if self._watch is not None:
                self._watch.look(batch.masks)
                self._classes.look(step.batch.labels)
            self._guard.passed()
            self._processes.step()
        else:
            self._skip(step, batch, loss, problem)
        self._count(sums, passed)
        return interrupted > 0

    def _note_task(self, labels: Tensor) -> None:
        """Note whether labels are numbers: the first batch decides, since others may hold only 0 and 1 by chance."""
        if self._trained.task_loss is None and (self.progress.regression or labels.is_floating_point()):
            self.progress.regression = True
            self._trained = self._trained.set_kwargs(task_loss=REGRESSION)
            self._processes.change_mitigator(self._trained)

    def _values(self, loss: Loss, batch: Any) -> tuple[list[float], bool]:
        """What `_count` sums, and whether the loss is finite; in one wait for the device."""
        labels = batch.labels.to(loss.logits.device)
        right = _count_right(loss.logits, labels)
        self._collapse.look(loss.logits, labels)
        scalars = [loss.task, loss.penalty, loss.total, right]
        if self._doubt is not None:
            scalars.append(self._doubt.doubt(loss.logits, labels))
        values = torch.stack([v.detach().double() for v in scalars]).tolist()
        if self._doubt is not None:
            self._doubt.add(values.pop())
        finite = math.isfinite(values[2])
        values[2] /= self._processes.part.world_size
        return [*values, float(len(labels))], finite

    def _try(self, batch: Any, weight: float, share: Any) -> tuple[Loss | None, str, Exception | None]:
        """The loss; or what was not finite in it; or an error that must wait until the other processes know."""
        try:
            return self._processes.loss(batch, weight, share), "", None
        except NonFiniteError as err:
            return None, str(err), None
        except InvalidInputError as err:
            finite = all(bool(torch.isfinite(t).all()) for t in flatten(batch.inputs)[0] if t.is_floating_point())
            return None, str(err), err if finite else None
        except Exception as err:
            if self._processes.part.world_size == 1:
                raise
            return None, "", err

    @property
    def _epochs_done(self) -> float:
        """The number of epochs done, with a fraction for the present one if its length is known."""
        return len(self.progress.epochs) + (self.progress.step / self._source.steps if self._source.steps else 0.0)

    @property
    def weight(self) -> float:
        """The weight of the penalty: what the schedule says, times the factor of the guard."""
        return self._mitigator.weight_at(self._epochs_done) * self._guard.factor

    def _skip(self, step: TrainingStep, batch: Any, loss: Loss | None, problem: str) -> None:
        where = f"in epoch {len(self.progress.epochs) + 1}, batch {self.progress.step + 1}"
        value = f"task {loss.task.item():g}, penalty {loss.penalty.item():g}" if loss is not None else problem
        sentence = f"the loss or its gradient is not finite {where} ({value})"
        rows = suspects(self._trained, self._model, batch, self.weight)
        if rows:
            names = [f"row {r} of the batch" if step.samples is None else str(step.samples[r]) for r in rows]
            listed = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
            sentence += f", for sample {listed}"
        self._guard.skip(sentence, self._remedy())

    def _count(self, sums: list[float], passed: bool) -> None:
        totals = self.progress.sums
        if not passed:
            totals["skipped"] += 1
            return
        for name, value in zip(("task", "penalty", "total", "right", "samples"), sums, strict=True):
            totals[name] += value
        totals["steps"] += 1
        if not self.bar.disable:
            means = {name: f"{totals[name] / totals['steps']:.3g}" for name in ("task", "penalty")}
            self.bar.set_postfix(means, refresh=False)

    def _close_epoch(self, *, is_last: bool) -> None:
        totals, number, model = self.progress.sums, len(self.progress.epochs) + 1, self._model
        if totals["steps"] + totals["skipped"] == 0:
            raise InvalidInputError(
                f"the data gave no batch in epoch {number}; pass something that can be iterated once per epoch"
            )
        self._warn_of_masks()
        ends = {"is_first": number == 1, "is_last": is_last and number > 1, "is_told": self._first}
        self._collapse.close_epoch(self._mitigator, self._processes, **ends, stacklevel=8)
        if self._doubt is not None and self._doubt.close_epoch(number - 1, stacklevel=8):
            self._doubt = None
        weight = self.weight
        if not all(ends.finite for ends in read_ranges(list(model.parameters()))):
            sentence = f"the weights are not finite after epoch {number}"
            if is_last:
                self._guard.restore()
                raise TrainingError(f"{sentence}; {self._remedy()}")
            self._guard.go_back(sentence, self._remedy())
        if is_last:
            self._guard.end(self._remedy())
        means = {name: totals[name] / totals["steps"] if totals["steps"] else float("nan") for name in MEANS}
        accuracy = totals["right"] / totals["samples"] if totals["samples"] else float("nan")
        row = {"epoch": number, **means, "accuracy": accuracy, "samples": int(totals["samples"]), "weight": weight}
        row["skipped"] = int(totals["skipped"])
        stopping = self._options.stopping
        if stopping.active:
            validation = self._processes.broadcast(stopping.look(model) if self._first else None)
            stopping.judge(model, validation["validation_worst_group"])
            row |= validation
        self.progress = TrainingProgress([*self.progress.epochs, row], seed=self.progress.seed)

    def _warn_of_masks(self) -> None:
        """Warn of empty or full masks after the first epoch, if they were not known before."""
        watch, self._watch = self._watch, None
        if watch is None:
            return
        inside, outside = self._processes.sum([float(watch.inside), float(watch.outside)])
        watch.inside, watch.outside = inside > 0, outside > 0
        if self._first:
            watch.warn(self._mitigator, stacklevel=8)
            self._classes.warn(self._mitigator, stacklevel=8)

    def _remedy(self) -> str:
        mitigator = self._mitigator
        return (
            f"try a smaller lr (now {mitigator.lr:g}), a smaller {mitigator.WEIGHT} (now {mitigator.weight:g}), "
            "or clip_grad_norm"
        )

    # ------------------------------------------------------------------ checkpoints

    def _write(self) -> None:
        path = self._options.checkpoint
        if path is None or not self._first or (isinstance(path, checkpoints.InMemory) and path.closed):
            return
        now = random_states.capture(self._source.generators)
        parts = {
            "model": self._model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "guard": self._guard.state(),
            "stopping": self._options.stopping.state(),
            "data": self._data,
            **({} if self._source.running is None else {"running": self._source.running.state()}),
            "random": {"began": self._began if self.progress.step else now, "now": now},
        }
        checkpoints.write(path, self._mitigator, parts, dataclasses.asdict(self.progress))

    def _resume(self, parts: dict[str, Any], progress: dict[str, Any]) -> None:
        self._model.load_state_dict(parts["model"])
        self._optimizer.load_state_dict(parts["optimizer"])
        self._guard.load_state(parts["guard"])
        self._options.stopping.load_state(parts["stopping"])
        if self._source.running is not None:
            self._source.running.load_state(parts["running"])
        self.progress = TrainingProgress(**progress)
        if self.progress.regression:
            self._note_task(torch.empty(0, device="cpu"))
        self._began = parts["random"]["began"]
        if self.progress.step:
            self._now = parts["random"]["now"]
        else:
            random_states.restore(self._began, self._source.generators)


def by_sample(mitigator: Mitigator) -> Mitigator:
    """The mitigator for batches whose masks are read: each sample has its own."""
    return mitigator.set_kwargs(mask_scope="sample")


def _count_right(logits: Tensor, labels: Tensor) -> Tensor:
    """How many predicted classes are right; NaN for labels that are no classes."""
    if labels.is_floating_point() or labels.shape != logits.shape[:1] or logits.ndim > 2:
        return torch.tensor(torch.nan, device=logits.device)
    predicted = (logits.reshape(-1) > 0).long() if logits.numel() == len(logits) else logits.argmax(-1)
    return (predicted == labels).sum()

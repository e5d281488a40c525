"""Mitigator: a training loss with a penalty on the explanation of any registered explainer."""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from xaikit.core import EXPLAINERS, MITIGATORS, Categorical, Configured, Explainer, Float, Int
from xaikit.core.arrays import to_tensor
from xaikit.core.batch import Batch, read_batch
from xaikit.core.earlier_statistics import EarlierStatistics
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NotDifferentiableError
from xaikit.core.model_state import buffers_kept_on_error
from xaikit.core.renames import renamed_arguments
from xaikit.core.value_equality import same_value, value_hash
from xaikit.mitigation import checkpoints
from xaikit.mitigation import fabric as fabrics
from xaikit.mitigation.checks import MaskWatch, check_data, check_device, check_model, explain_batchnorm_error
from xaikit.mitigation.early_stopping import EarlyStopping
from xaikit.mitigation.fabric import BatchFraction
from xaikit.mitigation.forward import full_precision, logits_of
from xaikit.mitigation.groups import split_groups
from xaikit.mitigation.history import History
from xaikit.mitigation.loss_watch import ranges_and_losses_known
from xaikit.mitigation.optimizers import check_optimizer
from xaikit.mitigation.penalties import EXPLANATION, REGRESSION, check_labels, gradient_ratio, task_loss
from xaikit.mitigation.reader import Reader, missing_masks
from xaikit.mitigation.sources import InMemorySource, Source, training_source
from xaikit.mitigation.task_losses import check_task_loss, loss_function
from xaikit.mitigation.trainer import Options, train


class Loss(NamedTuple):
    """One batch's loss: `total` = `task` + weight * `penalty`; each a scalar tensor."""

    task: Tensor
    penalty: Tensor
    total: Tensor
    logits: Tensor

    def __eq__(self, other: object) -> bool:
        # A tuple would ask torch whether two tensors are equal, which has no single answer.
        return isinstance(other, Loss) and same_value(tuple(self), tuple(other))

    def __ne__(self, other: object) -> bool:
        return not self == other  # noqa: SIM201 - a tuple has a __ne__ of its own

    def __hash__(self) -> int:
        return value_hash(tuple(self))


class Mitigator(Configured, abc.ABC):
    """Trains a model with a penalty that makes it ignore a shortcut.

    `loss` is for the user's own training loop, `fit` is our loop. The model's mode, hooks and random state stay as they
    are. Under autocast the penalty is still computed in float32, because its gradient is a second derivative.
    """

    REGISTRY: ClassVar[Any] = MITIGATORS
    WEIGHT: ClassVar[str]  # name of the setting that weighs the penalty
    NEEDS_MASK: ClassVar[bool] = True  # if False, no mask means that everything is marked
    MASK_NAME: ClassVar[str] = "shortcut_masks"  # the keyword of `fit`: what a mask means to this mitigator
    RENAMED_SETTINGS: ClassVar[dict[str, str]] = {"where": "mask_scope"}
    USES_EXPLAINER: ClassVar[bool] = True  # whether an explanation takes part in its penalty
    TAKES_GROUPS: ClassVar[bool] = False  # whether it trains by groups of samples
    EXPLAINS_AS_DEPLOYED: ClassVar[bool] = True  # the penalty's own pass runs in evaluation mode
    MASK_WARNING: ClassVar[str | None] = None  # what a user with masks should know before training
    EMPTY_MASK_WARNING: ClassVar[str | None] = "nothing is penalised"  # the effect of a mask that is zero everywhere

    explainer: Annotated[Any, EXPLANATION, "the explanation: a name, a spec string, a class or an object"] = "gradient"
    mask_scope: Annotated[
        str, Categorical("sample", "class", search=False), "one mask for each sample, or for each class: the label's"
    ] = "sample"
    task_loss: Annotated[
        Any, check_task_loss, "of the task: a function (logits, labels) or a name; None chooses by the labels"
    ] = None
    warmup: Annotated[float, Float(ge=0), "epochs over which the weight rises from 0, in a straight line"] = 0.0
    balance: Annotated[
        bool, "scale the penalty to a gradient as long as the task's, in every step; then the weight"
    ] = False
    lr: Annotated[float, Float(low=1e-5, high=1e-1, log=True, gt=0), "learning rate"] = 1e-4
    lr_schedule: Annotated[
        str, Categorical("constant", "linear", "cosine", search=False), "of the learning rate: held, or falling to 0"
    ] = "constant"
    n_epochs: Annotated[int, Int(ge=1), "passes over the data"] = 10
    batch_size: Annotated[int, Int(ge=1), "samples in a step, for data given as tensors"] = 8
    optimizer: Annotated[
        Any,
        check_optimizer,
        "a name of torch.optim with its settings ('sgd:momentum=0.9'), or a function of parameters",
    ] = "adam"
    weight_decay: Annotated[float, Float(ge=0), "of the optimizer"] = 0.0
    clip_grad_norm: Annotated[float | None, Float(gt=0, optional=True), "largest norm of a step's gradient"] = None
    head: Annotated[str | int, "which output holds the logits, where the model returns several"] = "logits"
    device: Annotated[Any, check_device, "where to train; None stays where the model is"] = None
    random_state: Annotated[int | None, Int(ge=0, optional=True), "seed of order, dropout and noise"] = None
    max_skips: Annotated[int, Int(ge=1), "steps in a row that may be skipped for not being finite"] = 5
    patience: Annotated[int | None, Int(ge=1, optional=True), "epochs without a better validation before the end"] = (
        None
    )
    checkpoint_every: Annotated[int | None, Int(ge=1, optional=True), "steps between checkpoints inside an epoch"] = (
        None
    )

    def _check_settings(self) -> None:
        if not self.explainer.DIFFERENTIABLE:
            able = ", ".join(n for n in EXPLAINERS if EXPLAINERS.get(n).DIFFERENTIABLE)
            raise NotDifferentiableError(
                f"{type(self.explainer).__name__} has no exact derivative, so it cannot be penalised; these can: {able}"
            )

    @property
    def weight(self) -> float:
        """The weight of the penalty, after the warm-up."""
        return float(getattr(self, self.WEIGHT))

    @property
    def needs_mask(self) -> bool:
        """Whether it must be told where: by masks."""
        return self.NEEDS_MASK

    def weight_at(self, epoch: float) -> float:
        """The weight of the penalty at some time of the training.

        Args:
            epoch: epochs that are done, fractions included.

        >>> from xaikit import RRR
        >>> [RRR(lambda_rrr=8.0, warmup=2.0).weight_at(epoch) for epoch in (0, 0.5, 2, 9)]
        [0.0, 2.0, 8.0, 8.0]
        """
        return self.weight * (min(1.0, epoch / self.warmup) if self.warmup else 1.0)

    def lr_at(self, epoch: float) -> float:
        """The learning rate at some time of the training.

        Args:
            epoch: epochs that are done, fractions included.

        >>> from xaikit import RRR
        >>> [RRR(lr=0.1, n_epochs=4, lr_schedule="cosine").lr_at(epoch) for epoch in (0, 2, 4)]
        [0.1, 0.05, 0.0]
        """
        return self.lr * self.lr_share_at(epoch)

    def lr_share_at(self, epoch: float) -> float:
        """What share of its first learning rate every group of parameters has at some time of the training.

        Args:
            epoch: epochs that are done, fractions included.
        """
        progress = min(1.0, epoch / self.n_epochs)
        shares = {"constant": 1.0, "linear": 1 - progress, "cosine": (1 + math.cos(math.pi * progress)) / 2}
        return shares[self.lr_schedule]

    def loss(self, model: nn.Module, batch: Any, *, seed: int | None = None, weight: float | None = None) -> Loss:
        """The loss of one batch.

        Args:
            model: returns logits (N, C), or holds them under `head`. A single output (N, 1) or (N,) is a binary
                classifier where the labels are the integers 0 and 1, and a regression where they are numbers.
            batch: (inputs, labels, masks): the inputs (N, ...), class indices (N,) (numbers for a regression), and
                masks as for `fit`, also a list with a mask or None for each sample. Where no mask is needed,
                (inputs, labels) will do. Arrays and lists are read like tensors.
            seed: of the explainer's noise; None draws one from torch's global random state.
            weight: of the penalty, in place of the setting, as in a warm-up; 0 gives the plain step bit for bit.

        Returns:
            task (mean cross-entropy; mean squared error for a regression; or what `task_loss` gives), penalty
            (unweighted), total; and the logits, with their graph.

        Raises:
            InvalidInputError, InvalidTypeError: for inputs, labels or masks that cannot be right.

        Warns:
            UserWarning: once for a model, when the loss is not finite; on a GPU at the model's next loss.
        """
        seed = Int(ge=0, optional=True).check(seed, "seed")
        with ranges_and_losses_known(self, model, batch) as note:
            return note(self._loss(model, self._read(model, batch), seed, weight))

    def _loss(self, model: nn.Module, batch: Batch, seed: int | None, weight: float | None) -> Loss:
        x, y, masks, *_ = batch  # no slice: torch 2.6 cannot compile one of a named tuple
        weight = self.weight if weight is None else weight
        with buffers_kept_on_error(model), explain_batchnorm_error():
            if weight == 0:
                # The step is bit for bit the plain one; the penalty is still measured.
                earlier = EarlierStatistics(model)
                logits = logits_of(model, x, self.head)
                y = self.task_labels(y, logits)
                task = self.task_of(logits, y)
                with torch.no_grad(), earlier.active():
                    penalty = self._penalty(model, x, y, masks, seed=0, create_graph=False)
                return Loss(task, penalty, task, logits)
            seed = int(torch.randint(2**31, (), device="cpu")) if seed is None else seed
            logits, penalty = self._logits_and_penalty(model, x, y, masks, seed)
            task = self.task_of(logits, self.task_labels(y, logits))
            scale = gradient_ratio(task, penalty, model.parameters()) if self.balance else 1.0
            return Loss(task, penalty, task + weight * scale * penalty, logits)

    @renamed_arguments(masks="shortcut_masks")
    def fit(  # noqa: PLR0913
        self,
        model: nn.Module,
        data: Any,
        labels: Any = None,
        *masks: Any,
        shortcut_masks: Any = None,
        relevant_region: Any = None,
        validation: Any = None,
        groups: Any = None,
        validation_groups: Any = None,
        checkpoint: Any = None,
        fabric: Any = None,
        on_epoch: Callable[[dict[str, float], nn.Module], Any] | None = None,
        progress: bool = True,
    ) -> History:
        """Train the model in place: ``fit(model, images, labels, masks)`` or ``fit(model, loader)``.

        Ctrl-C ends the training after the present step, with a checkpoint where one was asked for; twice, at once.

        Args:
            model: as for `loss`; its mode is left as found.
            data: inputs (N, ...) beside `labels`; a batch (inputs, labels) or (inputs, labels, masks); a loader or
                another iterable of such batches; or a data set of samples (x, label) or (x, label, mask), which is
                shuffled in every epoch. Tensors, numpy arrays, lists and pandas objects are read alike.
            labels: class indices (N,), or numbers for a model with a single output.
            masks: the fourth argument by position: the masks that this mitigator takes, whatever their keyword is.
            shortcut_masks: 1 where the explanation must not look, 0 elsewhere: (H, W) for all images, (N, H, W) or
                (N, C, H, W), steps (T,) or (N, T) of a series, columns (F,) of a table; a list may hold None for
                samples without. Resized to the same proportions only. With ``mask_scope="class"`` there is one for each
                class. Beside a loader or a data set: for all of its samples, in the order of the data set.
            relevant_region: for `HINT` and `AttributionPrior` in place of `shortcut_masks`: 1 where the explanation
                should lie, in the same forms.
            validation: (x, y), or a loader or a data set, looked at after each epoch; with the setting `patience`
                training stops early, and the weights of the epoch with the best worst group return.
            groups: (N,) names or numbers, or a function (x, y) -> (N,); None takes the classes. Of the training samples
                for a mitigator that trains by groups (a function: of the validation samples, too), else of the
                validation samples.
            validation_groups: of the validation samples, in the same forms.
            checkpoint: a ``.pt`` file, written after each epoch (and every `checkpoint_every` steps) and, where it
                exists, resumed from.
            fabric: a Lightning Fabric, which says on which devices, in how many processes and in which precision to
                train; `batch_size`, or the batch of a loader, is then that of all processes together.
            on_epoch: called after each epoch with its row, as `History` holds it, and the model: to log, or to save.
            progress: show a progress bar.

        Returns:
            History with task loss, penalty and accuracy of each epoch; a regression has no accuracy, NaN.

        Raises:
            InvalidInputError, InvalidTypeError: for data that cannot be right.
            TrainingError: when the loss stays non-finite; the last good weights are in the model.
            CheckpointError: when a checkpoint cannot be written; the one before it stays.
        """
        check_model(model)
        region = self._region(masks, shortcut_masks=shortcut_masks, relevant_region=relevant_region)
        processes = fabrics.processes(fabric)
        path = checkpoints.check_path(checkpoint)
        groups, validation_groups = split_groups(self.TAKES_GROUPS, groups, validation_groups, validation)
        stopping = EarlyStopping(validation, validation_groups, patience=self.patience, head=self.head)
        stopping.check(model)
        if labels is not None and region is None and self.needs_mask:
            raise InvalidInputError("fit needs labels and masks beside the inputs: fit(model, images, labels, masks)")
        if on_epoch is not None and not callable(on_epoch):
            raise InvalidTypeError(f"on_epoch must be a function (row, model), got {on_epoch!r}")
        source = training_source(data, labels, self.batch_size, self._reader(model, region))
        check_data(self, model, source)
        if isinstance(source, InMemorySource):
            watch = MaskWatch()
            watch.look(source.samples.masks)
            watch.warn(self, stacklevel=4)
            stopping.warn_of_unseen(model, source.samples.labels, stacklevel=4)
        with self._training(model, source, groups) as (trained, arranged):
            options = Options(path, stopping, progress, on_epoch)
            history: History = processes.launch(train, trained, model, arranged, options)
        return history

    @contextlib.contextmanager
    def _training(self, model: nn.Module, source: Source, groups: Any) -> Iterator[tuple[Mitigator, Source]]:  # noqa: ARG002
        """What is trained inside, and on what: a subclass may arrange its data, freeze layers, or train before."""
        yield self, source

    @property
    def flat_when_sure(self) -> bool:
        """Whether the penalised scores have almost no gradient when the model is sure, so that the penalty has none."""
        return False

    def _full_mask_warning(self) -> str | None:
        """The effect of a mask that covers everything, for a warning; None if such a mask may be meant."""
        return None

    def penalty_share(self, fraction: BatchFraction) -> float:
        """The weight of a part of a batch in the penalty of the whole batch.

        The penalty of a batch is the sum over its parts of penalty_share * penalty of the part. A sum over samples adds
        up as it is; a mean is over the samples that have a mask.

        Args:
            fraction: how much of the batch the part is.
        """
        return 1.0 if getattr(self, "reduction", "mean") == "sum" else fraction.explained

    @property
    def takes_any_labels(self) -> bool:
        """Whether the task's loss was named, or is a function of the user's: such a loss takes labels of any form."""
        return self.task_loss is not None and self.task_loss != REGRESSION

    def task_labels(self, labels: Any, logits: Tensor) -> Tensor:
        """The labels as the task's loss takes them, on the logits' device.

        Args:
            labels: of the batch.
            logits: of the model.

        Raises:
            InvalidInputError, InvalidTypeError: as `check_labels`, where the loss is no function of the user's.
        """
        if self.takes_any_labels:
            return to_tensor(labels, "labels").to(logits.device)
        return check_labels(labels, logits, regression=self.task_loss == REGRESSION)

    def task_of(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The task's loss, a scalar.

        Args:
            logits: of the model.
            labels: as `task_labels` gives them.

        Raises:
            InvalidInputError: where a function of the user's returns no scalar.
        """
        if not self.takes_any_labels:
            return task_loss(logits, labels)
        value = loss_function(self.task_loss)(logits.clone(), labels.clone())  # it may write into them
        if not isinstance(value, Tensor) or value.ndim:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInputError(
                f"a task_loss must return one number, a tensor of shape (), got {got}; take its mean"
            )
        return value

    def explainer_for(self, model: nn.Module) -> Explainer:
        """The penalised explainer, bound to the model and its head.

        Args:
            model: as for `loss`.
        """
        explainer: Explainer = self.explainer.set_kwargs(model=model, head=self.head)
        return explainer

    def _reader(self, model: nn.Module, masks: Any = None) -> Reader:
        """How the batches of a training are read."""
        name = type(self).__name__ if self.needs_mask else ""
        options: dict[str, Any] = {"by_class": self.mask_scope == "class", "free_labels": self.takes_any_labels}
        return Reader(model, needs_mask=name, masks=masks, what=self.MASK_NAME, **options)

    def _read(self, model: nn.Module, batch: Any) -> Batch:
        """A batch as the user gave it, read."""
        options: dict[str, Any] = {"check": False, "move": True, "free_labels": self.takes_any_labels}
        by_class = self.mask_scope == "class"
        read = read_batch(batch, model, by_class=by_class, masks=self.MASK_NAME, **options)
        if self.needs_mask and read.masks is None:
            raise missing_masks(type(self).__name__)
        return read

    def _region(self, positional: tuple[Any, ...], **by_name: Any) -> Any:
        """The masks of `fit`, by position or by the one keyword that says what they mean to this mitigator."""
        wrong = next((name for name, value in by_name.items() if name != self.MASK_NAME and value is not None), None)
        if wrong is not None:
            meaning = "must not matter" if self.MASK_NAME == "shortcut_masks" else "should matter"
            raise InvalidTypeError(
                f"{type(self).__name__} takes {self.MASK_NAME}=, 1 where the explanation {meaning}, and no {wrong}="
            )
        regions = [m for m in (*positional, by_name[self.MASK_NAME]) if m is not None]
        if len(positional) > 1 or len(regions) > 1:
            raise InvalidTypeError(
                f"fit takes model, inputs, labels and masks by position, got {3 + len(positional)} arguments"
                if len(positional) > 1
                else f"fit takes masks once, got them by position and as {self.MASK_NAME}="
            )
        return regions[0] if regions else None

    def _logits_and_penalty(self, model: nn.Module, x: Any, y: Any, masks: Any, seed: int) -> tuple[Tensor, Tensor]:
        """The logits and the penalty, with their graphs; the labels have not been compared with the logits yet."""
        earlier = EarlierStatistics(model)
        logits = logits_of(model, x, self.head)
        y = self.task_labels(y, logits)
        with full_precision(x) as exact, earlier.active() if self.EXPLAINS_AS_DEPLOYED else contextlib.nullcontext():
            return logits, self._penalty(model, exact, y, masks, seed=seed, create_graph=True)

    @abc.abstractmethod
    def _penalty(self, model: nn.Module, x: Any, y: Tensor, masks: Any, *, seed: int, create_graph: bool) -> Tensor:
        """The unweighted penalty of one batch, a scalar."""

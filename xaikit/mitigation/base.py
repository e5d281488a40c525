"""Mitigator: a training loss with a penalty on the explanation, any registered explainer's."""

from __future__ import annotations

import abc
import contextlib
import math
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from xaikit.core import EXPLAINERS, MITIGATORS, Categorical, Configured, Explainer, Float, Int
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NotDifferentiableError
from xaikit.core.model_state import buffers_kept_on_error
from xaikit.core.structure import flatten
from xaikit.core.targets import pick_head
from xaikit.mitigation import batches, checkpoints
from xaikit.mitigation import fabric as fabrics
from xaikit.mitigation.checks import MaskWatch, check_data, check_model, explain_batchnorm_error
from xaikit.mitigation.early_stopping import EarlyStopping
from xaikit.mitigation.fabric import Share
from xaikit.mitigation.history import History
from xaikit.mitigation.masks import batch_masks
from xaikit.mitigation.penalties import EXPLANATION, check_labels, gradient_ratio, task_loss
from xaikit.mitigation.trainer import Options, prepared, train


class Loss(NamedTuple):
    """One batch's loss: `total` = `task` + weight * `penalty`; each a scalar tensor."""

    task: Tensor
    penalty: Tensor
    total: Tensor
    logits: Tensor


def _device(value: Any, where: str) -> Any:
    if value is None:
        return None
    try:
        return torch.device(value)
    except (RuntimeError, TypeError):
        raise InvalidInputError(f"{where} must name a torch device such as 'cpu' or 'cuda', got {value!r}") from None


class Mitigator(Configured, abc.ABC):
    """Trains a model while its explanation is held to something.

    `loss` serves the user's own loop, `fit` is ours. The model's own mode, hooks and random state stay as they are.
    Under autocast the penalty is computed in float32 all the same: its derivative is a second one.
    """

    REGISTRY: ClassVar[Any] = MITIGATORS
    WEIGHT: ClassVar[str]  # name of the setting that weighs the penalty
    NEEDS_MASK: ClassVar[bool] = True  # else no mask means everything
    EMPTY_MASK_WARNING: ClassVar[str | None] = "nothing is penalised"  # what comes of a mask that is zero everywhere

    explainer: Annotated[Any, EXPLANATION, "the explanation: a name, a spec string, a class or an object"] = "gradient"
    where: Annotated[
        str, Categorical("sample", "class", search=False), "whose masks they are: 'class' takes the label's"
    ] = "sample"
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
    optimizer: Annotated[str, Categorical("adam", "adamw", "sgd", search=False), "who takes the steps"] = "adam"
    weight_decay: Annotated[float, Float(ge=0), "of the optimizer"] = 0.0
    clip_grad_norm: Annotated[float | None, Float(gt=0, optional=True), "largest norm of a step's gradient"] = None
    head: Annotated[str | int, "which output holds the logits, where the model returns several"] = "logits"
    device: Annotated[Any, _device, "where to train; None stays where the model is"] = None
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

    def weight_at(self, epoch: float) -> float:
        """The weight when `epoch` epochs are done, fractions included.

        >>> from xaikit import RRR
        >>> [RRR(lambda_rrr=8.0, warmup=2.0).weight_at(epoch) for epoch in (0, 0.5, 2, 9)]
        [0.0, 2.0, 8.0, 8.0]
        """
        return self.weight * (min(1.0, epoch / self.warmup) if self.warmup else 1.0)

    def lr_at(self, epoch: float) -> float:
        """The learning rate when `epoch` epochs are done, fractions included.

        >>> from xaikit import RRR
        >>> [RRR(lr=0.1, n_epochs=4, lr_schedule="cosine").lr_at(epoch) for epoch in (0, 2, 4)]
        [0.1, 0.05, 0.0]
        """
        done = min(1.0, epoch / self.n_epochs)
        shares = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        return self.lr * shares[self.lr_schedule]

    def loss(self, model: nn.Module, batch: Any, *, seed: int | None = None, weight: float | None = None) -> Loss:
        """The loss of one batch.

        Args:
            model: returns logits (N, C), or holds them under `head`; a single output (N, 1) or (N,) is a regression.
            batch: (x, y, mask): inputs, class indices (N,) (numbers for a regression), and the mask of what must not
                matter: a tensor as for `fit`, or a list with a mask or None for each sample. Where no mask is needed,
                (x, y) will do.
            seed: of the explainer's noise; None draws one from torch's global random state.
            weight: in place of the setting, as in a warm-up; 0 is the plain step, bit for bit.

        Returns:
            task (mean cross-entropy; mean squared error for a regression), penalty (unweighted), total; and the
            logits, detached.

        Raises:
            InvalidInputError, InvalidTypeError: for labels or masks that cannot be right.
        """
        x, y, mask = self._parts(batch)
        weight = self.weight if weight is None else weight
        with buffers_kept_on_error(model), explain_batchnorm_error():
            if weight == 0:
                # Bit for bit the plain step; the penalty is still measured.
                logits = logits_of(model, x, self.head)
                y = check_labels(y, logits)
                task = task_loss(logits, y)
                with torch.no_grad():
                    penalty = self._penalty(model, x, y, batch_masks(mask, y, self.where), seed=0, create_graph=False)
                return Loss(task, penalty, task, logits.detach())
            seed = int(torch.randint(2**31, ())) if seed is None else seed
            logits, penalty = self._logits_and_penalty(model, x, y, mask, seed)
            task = task_loss(logits, check_labels(y, logits))
            scale = gradient_ratio(task, penalty, model.parameters()) if self.balance else 1.0
            return Loss(task, penalty, task + weight * scale * penalty, logits.detach())

    def fit(  # noqa: PLR0913
        self,
        model: nn.Module,
        data: Any,
        labels: Any = None,
        masks: Any = None,
        *,
        validation: Any = None,
        groups: Any = None,
        checkpoint: Any = None,
        fabric: Any = None,
        progress: bool = True,
    ) -> History:
        """Train the model in place.

        Ctrl-C ends the training after the present step, with a checkpoint where one was asked for; twice, at once.

        Args:
            model: as for `loss`; its mode is left as found.
            data: inputs (N, ...), with `labels` (N,) and `masks`; or an iterable of batches (x, y, mask).
            labels: class indices (N,), or numbers for a model with a single output.
            masks: (N, C, H, W), (N, H, W), or (H, W) for all; 1 = penalise. Resized when needed. A list may hold None
                for samples without; with ``where="class"`` there is one for each class.
            validation: (x, y) or an iterable of batches (x, y), looked at after each epoch; with the setting `patience`
                training stops early, and the weights of the epoch with the best worst group return.
            groups: of the validation samples: (N,) names or numbers, or a function (x, y) -> (N,); None takes classes.
            checkpoint: a ``.pt`` file, written after each epoch (and every `checkpoint_every` steps) and, where it
                exists, resumed from.
            fabric: a Lightning Fabric, which says on which devices, in how many processes and in which precision to
                train; `batch_size`, or the batch of a loader, is then that of all processes together.
            progress: show a progress bar.

        Returns:
            History with task loss, penalty and accuracy of each epoch; a regression has no accuracy, NaN.

        Raises:
            InvalidInputError, InvalidTypeError: for data that cannot be right.
            TrainingError: when the loss stays non-finite; the last good weights are in the model.
            CheckpointError: when a checkpoint cannot be written; the one before it stays.
        """
        check_model(model)
        processes = fabrics.processes(fabric)
        path = checkpoints.check_path(checkpoint)
        stopping = EarlyStopping(validation, groups, patience=self.patience, head=self.head)
        stopping.check(model)
        if labels is not None:
            if masks is None and not self.NEEDS_MASK:
                x = flatten(data)[0][0]
                masks = torch.ones(x.shape[2:] if x.ndim > 2 else x.shape[1:])
            masks = batch_masks(masks, labels, self.where)
        source = batches.source(data, labels, masks, self.batch_size, partial(prepared, self))
        check_data(self, model, source)
        if labels is not None:
            watch = MaskWatch()
            watch.look(masks)
            watch.tell(self, stacklevel=3)
        history: History = processes.launch(train, self, model, source, Options(path, stopping, progress))
        return history

    def _of_full_mask(self) -> str | None:
        """What comes of a mask that covers everything, where that cannot be meant."""
        return None

    def penalty_share(self, share: Share) -> float:
        """What a part of a batch weighs in the penalty of the whole: penalty = sum of penalty_share * penalty of part.

        A sum over samples adds up as it is; a mean is over the samples that have a mask.
        """
        return 1.0 if getattr(self, "reduction", "mean") == "sum" else share.explained

    def explainer_for(self, model: nn.Module) -> Explainer:
        """The penalised explainer, bound to the model and its head."""
        explainer: Explainer = self.explainer.set_kwargs(model=model, head=self.head)
        return explainer

    def _parts(self, batch: Any) -> tuple[Any, Any, Any]:
        parts = tuple(batch) if isinstance(batch, (tuple, list)) else ()
        if len(parts) == 2 and not self.NEEDS_MASK:
            parts = *parts, None
        if len(parts) != 3:
            raise InvalidTypeError("a batch must be (inputs, labels, masks)")
        x, y, mask = parts
        if self.NEEDS_MASK and mask is None:
            raise InvalidTypeError(
                f"{type(self).__name__} must be told where: a batch is (inputs, labels, masks), got None for the masks"
            )
        if len(flatten(x)[0][0]) == 0:
            raise InvalidInputError("a batch must hold at least one sample, got none")
        return x, y, mask

    def _logits_and_penalty(self, model: nn.Module, x: Any, y: Any, mask: Any, seed: int) -> tuple[Tensor, Tensor]:
        """Both from the inputs, with their graphs; labels and masks are as the user gave them."""
        logits = logits_of(model, x, self.head)
        y = check_labels(y, logits)
        masks = batch_masks(mask, y, self.where)
        with full_precision(x) as exact:
            return logits, self._penalty(model, exact, y, masks, seed=seed, create_graph=True)

    @abc.abstractmethod
    def _penalty(self, model: nn.Module, x: Any, y: Tensor, mask: Any, *, seed: int, create_graph: bool) -> Tensor:
        """The unweighted penalty of one batch, a scalar."""


def logits_of(model: nn.Module, x: Any, head: str | int) -> Tensor:
    """The model's logits, in its own mode."""
    return pick_head(run_model(model, x), head)


def run_model(model: nn.Module, x: Any) -> Any:
    """The model on inputs as a tensor, a tuple or a dict."""
    if isinstance(x, dict):
        return model(**x)
    return model(*x) if isinstance(x, (tuple, list)) else model(x)


def autocast_on(x: Any) -> bool:
    """Whether autocast is active where the inputs are."""
    return torch.is_autocast_enabled(flatten(x)[0][0].device.type)


@contextlib.contextmanager
def full_precision(x: Any) -> Iterator[Any]:
    """Autocast off inside; gives the inputs, in float32 where autocast was to lower them."""
    if not autocast_on(x):
        yield x
        return
    tensors, rebuild = flatten(x)
    low = (torch.float16, torch.bfloat16)
    with torch.autocast(tensors[0].device.type, enabled=False):
        yield rebuild(tuple(t.float() if t.dtype in low else t for t in tensors))

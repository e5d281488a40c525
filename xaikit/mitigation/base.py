"""Mitigator: a training loss with a penalty on the explanation, any registered explainer's."""

from __future__ import annotations

import abc
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS, MITIGATORS, Categorical, Choice, Configured, Explainer, Float, Int
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NotDifferentiableError
from xaikit.core.isolation import buffers_kept_on_error
from xaikit.core.targets import pick_head
from xaikit.mitigation import batches, checkpoints
from xaikit.mitigation import fabric as fabrics
from xaikit.mitigation.checks import check_data, check_model
from xaikit.mitigation.early_stopping import EarlyStopping
from xaikit.mitigation.fabric import Share
from xaikit.mitigation.history import History
from xaikit.mitigation.masks import label_tensor
from xaikit.mitigation.trainer import Options, train


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

    `loss` serves the user's own loop, `fit` is ours. The explanation is computed in evaluation mode, exactly, and the
    model's own mode, hooks and random state stay as they are.
    """

    REGISTRY: ClassVar[Any] = MITIGATORS
    WEIGHT: ClassVar[str]  # name of the setting that weighs the penalty

    explainer: Annotated[Any, Choice(EXPLAINERS), "the explanation: a name, a spec string, a class or an object"] = (
        "gradient"
    )
    lr: Annotated[float, Float(low=1e-5, high=1e-1, log=True, gt=0), "learning rate"] = 1e-4
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

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if not self.explainer.DIFFERENTIABLE:
            able = ", ".join(n for n in EXPLAINERS if EXPLAINERS.get(n).DIFFERENTIABLE)
            raise NotDifferentiableError(
                f"{type(self.explainer).__name__} has no exact derivative, so it cannot be penalised; these can: {able}"
            )

    @property
    def weight(self) -> float:
        """The weight of the penalty."""
        return float(getattr(self, self.WEIGHT))

    def loss(self, model: nn.Module, batch: Any, *, seed: int | None = None) -> Loss:
        """The loss of one batch.

        Args:
            model: returns logits (N, C), or holds them under `head`.
            batch: (x, y, mask): inputs, class indices (N,), and the mask of what must not matter.
            seed: of the explainer's noise; None draws one from torch's global random state.

        Returns:
            task (mean cross-entropy), penalty (unweighted), total; and the logits, detached.

        Raises:
            InvalidInputError, InvalidTypeError: for labels or masks that cannot be right.
        """
        try:
            x, y, mask = batch
        except (TypeError, ValueError):
            raise InvalidTypeError("a batch must be (inputs, labels, masks)") from None
        with buffers_kept_on_error(model):
            logits = pick_head(run_model(model, x), self.head)
            y = check_labels(y, logits)
            task = F.cross_entropy(logits, y)
            if self.weight == 0:
                # Bit for bit the plain step; the penalty is still measured.
                with torch.no_grad():
                    penalty = self._penalty(model, x, y, mask, seed=0, create_graph=False)
                return Loss(task, penalty, task, logits.detach())
            seed = int(torch.randint(2**31, ())) if seed is None else seed
            penalty = self._penalty(model, x, y, mask, seed=seed, create_graph=True)
            return Loss(task, penalty, task + self.weight * penalty, logits.detach())

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
            labels: class indices (N,).
            masks: (N, C, H, W), (N, H, W), or (H, W) for all; 1 = penalise. Resized when needed.
            validation: (x, y) or an iterable of batches (x, y), looked at after each epoch; with the setting `patience`
                training stops early, and the weights of the epoch with the best worst group return.
            groups: of the validation samples: (N,) names or numbers, or a function (x, y) -> (N,); None takes classes.
            checkpoint: a ``.pt`` file, written after each epoch (and every `checkpoint_every` steps) and, where it
                exists, resumed from.
            fabric: a Lightning Fabric, which says on which devices, in how many processes and in which precision to
                train; `batch_size`, or the batch of a loader, is then that of all processes together.
            progress: show a progress bar.

        Returns:
            History with task loss, penalty and accuracy of each epoch.

        Raises:
            InvalidInputError, InvalidTypeError: for data that cannot be right.
            TrainingError: when the loss stays non-finite; the last good weights are in the model.
            CheckpointError: when a checkpoint cannot be written; the one before it stays.
        """
        check_model(model)
        processes = fabrics.processes(fabric)
        path = checkpoints.check_path(checkpoint)
        stopping = EarlyStopping(validation, groups, patience=self.patience, head=self.head)
        source = batches.source(data, labels, masks, self.batch_size)
        check_data(self, model, source)
        history: History = processes.launch(train, self, model, source, Options(path, stopping, progress))
        return history

    def weight_at(self, progress: float) -> float:  # noqa: ARG002
        """The weight of the penalty when a share `progress`, 0 to 1, of the training is done."""
        return self.weight

    def penalty_share(self, share: Share) -> float:
        """What a part of a batch weighs in the penalty of the whole: penalty = sum of penalty_share * penalty of part.

        A sum over samples adds up as it is; a mean over samples goes by their number.
        """
        return 1.0 if getattr(self, "reduction", "mean") == "sum" else share.samples

    def explainer_for(self, model: nn.Module) -> Explainer:
        """The penalised explainer, bound to the model and its head."""
        explainer: Explainer = self.explainer.set_kwargs(model=model, head=self.head)
        return explainer

    @abc.abstractmethod
    def _penalty(self, model: nn.Module, x: Any, y: Tensor, mask: Any, *, seed: int, create_graph: bool) -> Tensor:
        """The unweighted penalty of one batch, a scalar."""


def check_labels(labels: Any, logits: Tensor) -> Tensor:
    """Labels as class indices (N,) on the logits' device.

    Raises:
        InvalidTypeError: for labels that are no whole numbers.
        InvalidInputError: for a wrong shape, or a label outside 0..C-1.
    """
    labels = label_tensor(labels).to(logits.device)
    if logits.ndim != 2:
        raise InvalidInputError(
            f"the model must return logits (N, classes), got {tuple(logits.shape)}; name the output with head="
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InvalidTypeError(f"labels must be whole class indices, got {labels.dtype}")
    if labels.shape != logits.shape[:1]:
        raise InvalidInputError(f"labels must have shape ({len(logits)},), got {tuple(labels.shape)}")
    bad = (labels < 0) | (labels >= logits.shape[1])
    if bool(bad.any()):
        raise InvalidInputError(
            f"labels must lie in 0..{logits.shape[1] - 1} for a model with {logits.shape[1]} outputs, "
            f"got {int(labels[bad][0])}"
        )
    return labels.long()


def run_model(model: nn.Module, x: Any) -> Any:
    """The model on inputs as a tensor, a tuple or a dict."""
    if isinstance(x, dict):
        return model(**x)
    return model(*x) if isinstance(x, (tuple, list)) else model(x)

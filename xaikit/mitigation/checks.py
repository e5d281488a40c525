"""Checks before the first training step: the model can be trained, and the data fit it."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError, InvalidTypeError, XaikitError
from xaikit.core.forward import with_rows
from xaikit.core.lightning_private import lightning_inner
from xaikit.core.masks import leaves_of, marked
from xaikit.core.model_device import model_device
from xaikit.core.model_state import isolated
from xaikit.core.structure import flatten
from xaikit.core.targets import pick_head
from xaikit.core.value_ranges import range_of
from xaikit.mitigation.forward import run_model, training_mode
from xaikit.mitigation.penalties import classes_last
from xaikit.mitigation.sources import InMemorySource, Source

if TYPE_CHECKING:
    from xaikit.mitigation.base import Mitigator
    from xaikit.mitigation.fabric import OneProcess


def check_device(value: Any, where: str) -> Any:
    """The torch device that a setting names, or None.

    Raises:
        InvalidInputError: for no device.
    """
    if value is None:
        return None
    try:
        return torch.device(value)
    except (RuntimeError, TypeError):
        raise InvalidInputError(f"{where} must name a torch device such as 'cpu' or 'cuda', got {value!r}") from None


def check_model(model: Any) -> None:
    """Check that `fit` can train a model.

    Raises:
        InvalidTypeError: for anything but a module.
        InvalidInputError: for a model without a parameter to train, or one that is wrapped already.
    """
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"fit takes a torch.nn.Module first, got {type(model).__name__}")
    if lightning_inner(model) is not None or isinstance(model, nn.parallel.DistributedDataParallel):
        raise InvalidInputError(
            f"fit takes the bare model and wraps it with the loss; of this {type(model).__name__} pass .module"
        )
    if not any(p.requires_grad for p in model.parameters()):
        none_seen = next(model.parameters(), None) is None
        unseen = "; modules in a list or a closure are not seen, put them into an nn.ModuleList" if none_seen else ""
        raise InvalidInputError(f"no parameter of the model requires a gradient, so there is nothing to train{unseen}")


def check_data(mitigator: Mitigator, model: nn.Module, source: Source) -> None:
    """Run the model and its explanation on one sample, so that wrong data are refused before the first step.

    Raises:
        InvalidInputError, InvalidTypeError: for data that do not fit the model, or a step of one sample for BatchNorm.
    """
    device = model_device(model)
    if isinstance(source, InMemorySource):
        try:
            _check_first(mitigator, model, source.first().to(device), source.samples.labels)
        except XaikitError:  # the model may need several samples, as BatchNorm without running statistics does
            step = min(len(source.samples.labels), source.batch_size)
            if step == 1:
                raise
            _check_first(mitigator, model, source.samples.take(range(step)).to(device), source.samples.labels)
    if any(isinstance(m, torch_private.BatchNorm) for m in model.modules()) and (one := source.single):
        _check_single(model, one.to(device))


def _check_first(mitigator: Mitigator, model: nn.Module, first: Batch, labels: Tensor) -> None:
    x, y, mask = first[:3]
    tensors = flatten(x)[0]
    with isolated(model, tensors[0].device, 0), torch.no_grad():
        try:
            output = run_model(model, x)
        except RuntimeError as err:
            shapes = ", ".join(f"{tuple(t.shape)} of {t.dtype}" for t in tensors)
            raise InvalidInputError(f"the model does not take inputs of shape {shapes}: {err}") from err
    logits = with_rows(pick_head(output, mitigator.head), len(tensors[0]))
    if logits.ndim == 0 or len(logits) != len(tensors[0]):
        raise InvalidInputError(
            f"the model must return one row per sample, got {tuple(logits.shape)} for a batch of {len(tensors[0])}"
        )
    mitigator.task_labels(labels, logits[:1].expand(len(labels), *logits.shape[1:]))
    mitigator._penalty(model, x, y, mask, seed=0, create_graph=False)


def _check_single(model: nn.Module, one: Batch) -> None:
    """BatchNorm over a map can train on one sample, over a vector it cannot."""
    buffers = [(b, b.detach().clone()) for b in model.buffers()]
    with training_mode(model), torch.random.fork_rng(), torch.no_grad():
        try:
            with explain_batchnorm_error():
                run_model(model, one.inputs)
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


class MaskWatch:
    """Notes whether there are masks, whether any marks something, and whether any leaves something out."""

    def __init__(self) -> None:
        self.inside = self.outside = self.present = False

    def look(self, mask: Any) -> None:
        """Take a mask into account; None means everything, on purpose."""
        if mask is None:
            self.inside = self.outside = True
        else:
            self.present = True
        if self.inside and self.outside:
            return  # no further step can change the answer
        for leaf in leaves_of(mask):
            values = marked(leaf)
            low, high = range_of(values)
            self.inside = self.inside or high > 0
            self.outside = self.outside or low < 1

    def warn(self, mitigator: Mitigator, *, stacklevel: int) -> None:
        """Warn of masks that are zero everywhere or cover everything, where that cannot be meant, or do not help."""
        if self.present and mitigator.MASK_WARNING:
            warnings.warn(mitigator.MASK_WARNING, stacklevel=stacklevel)
        if not self.inside and mitigator.EMPTY_MASK_WARNING:
            warnings.warn(f"the mask is zero everywhere, so {mitigator.EMPTY_MASK_WARNING}", stacklevel=stacklevel)
        if not self.outside and (comes := mitigator._full_mask_warning()):
            warnings.warn(f"the mask covers everything, so {comes}", stacklevel=stacklevel)


class ClassWatch:
    """Notes whether each batch of a loader holds one class only, so that nothing is exchanged between classes."""

    SMALL = 8  # fewer samples than this may be of one class by chance

    def __init__(self) -> None:
        self._classes: set[int] = set()
        self._batches, self._mixed = 0, False

    def look(self, labels: Any) -> None:
        """Take the labels of a batch into account, where they are classes and no GPU has to be waited for."""
        if not isinstance(labels, Tensor) or labels.device.type != "cpu" or labels.is_floating_point():
            return
        if self._mixed or labels.ndim != 1 or len(labels) < self.SMALL:
            return
        present = labels.unique().tolist()
        self._classes.update(present)
        self._batches += 1
        self._mixed = len(present) > 1

    def warn(self, mitigator: Mitigator, *, stacklevel: int) -> None:
        """Warn of batches of one class each, where the mitigator exchanges a shortcut within the batch."""
        within = getattr(mitigator, "exchanges_within_batch", False)  # only some mitigators exchange anything
        if within and not self._mixed and len(self._classes) > 1:
            warnings.warn(
                f"each of the {self._batches} batches holds one class only, so a shortcut was exchanged for that of "
                "the same class, which teaches nothing; shuffle the data: DataLoader(..., shuffle=True)",
                stacklevel=stacklevel,
            )


class DoubtWatch:
    """Notes whether the scores that a penalty explains have almost no gradient, because the model is sure.

    The derivative of log p by the logits is at most 1 - p, the doubt. Its mean is taken over one epoch: the first in
    which the penalty has its full weight. If the model is sure by then, the penalty has no effect.
    """

    FLAT = 0.05  # mean doubt below which a squared gradient of log p is less than a hundredth of the logit's

    def __init__(self, mitigator: Mitigator) -> None:
        self._mitigator, self._sum, self._steps = mitigator, 0.0, 0

    def doubt(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The mean of 1 - p: of the label or, where labels are no classes, of the predicted class; NaN where unknown.

        Args:
            logits: of the batch, (N, classes), or with one class for each position.
            labels: of the batch.
        """
        logits = logits.detach()
        if logits.ndim > 2 and labels.ndim == logits.ndim - 1:  # a class for each position
            logits = classes_last(logits, labels)
        elif logits.ndim != 2:
            return torch.tensor(torch.nan, device=logits.device)
        if logits.shape[-1] == 1:
            return torch.tensor(torch.nan, device=logits.device)
        chances = logits.softmax(-1)
        is_class = (
            labels.shape == logits.shape[:1] and not labels.is_floating_point() and not self._mitigator.takes_any_labels
        )
        return 1 - (chances.gather(1, labels[:, None]) if is_class else chances.amax(-1)).mean()

    def add(self, doubt: float) -> None:
        """Take the doubt of a step into account."""
        self._sum, self._steps = self._sum + doubt, self._steps + 1

    def close_epoch(self, begun: float, *, stacklevel: int) -> bool:
        """Warn if the scores are flat; return whether this was the epoch that is looked at.

        Args:
            begun: epochs that were done when this one began.
            stacklevel: of the warning.
        """
        mean = self._sum / self._steps if self._steps else math.nan
        self._sum, self._steps = 0.0, 0
        if begun < self._mitigator.warmup:
            return False
        if mean < self.FLAT and self._mitigator.weight > 0:
            warnings.warn(
                f"the model is sure of its classes (mean probability {100 * (1 - mean):.1f} %), so its "
                "(log-)probabilities are flat, and the penalty on their explanation hardly acts; penalise the logit: "
                "output='logit'",
                stacklevel=stacklevel,
            )
        return True


class CollapseWatch:
    """Whether a model came to predict one class alone, counted over the steps of an epoch, on the model's device."""

    SHARE = 0.98  # from this share of predictions of one class on it is a collapse
    ENOUGH = 32  # predictions in an epoch; fewer are easily of one class
    BEFORE = 0.9  # if an earlier epoch had more than this share of it, it was so from the start
    COUNTED_AT_ONCE = 64  # steps are counted together, so that counting costs a small net nearly nothing

    def __init__(self) -> None:
        self._least = 1.0
        self._classes = 0
        self._steps: list[tuple[Tensor, Tensor]] = []  # predicted classes and labels of those not counted yet
        self._counts: Tensor | None = None  # of both, for each class, (2, classes)

    def look(self, logits: Tensor, labels: Tensor) -> None:
        """Take a batch into account; what has no classes is passed over.

        Args:
            logits: of the batch.
            labels: of the batch.
        """
        if labels.is_floating_point() or labels.shape != logits.shape[:1] or logits.ndim != 2 or logits.shape[1] < 2:
            return
        self._classes = logits.shape[1]
        self._steps.append((logits.detach().argmax(1), labels))
        if len(self._steps) == self.COUNTED_AT_ONCE:
            self._count()

    def _count(self) -> None:
        """Add up what was noted."""
        if not self._steps:
            return
        predicted, labels = map(torch.cat, zip(*self._steps, strict=True))
        counts = torch.zeros(2, self._classes, device=labels.device)
        is_class = ((labels >= 0) & (labels < self._classes)).to(counts)  # the user's loss may ignore some labels
        counts[0].index_add_(0, predicted, torch.ones_like(is_class))
        counts[1].index_add_(0, labels.clamp(0, self._classes - 1), is_class)
        self._counts = counts if self._counts is None else self._counts + counts
        self._steps = []

    def close_epoch(  # noqa: PLR0913
        self,
        mitigator: Mitigator,
        processes: OneProcess,
        *,
        is_first: bool,
        is_last: bool,
        is_told: bool,
        stacklevel: int,
    ) -> None:
        """Begin anew; after the first epoch warn of outputs that no sample trains, after the last of a collapse.

        Args:
            mitigator: that trains.
            processes: among which the samples are shared.
            is_first: whether the training has begun with this epoch.
            is_last: whether it ends.
            is_told: whether it is this process that warns.
            stacklevel: of the warning.
        """
        self._count()
        counted, self._counts = self._counts, None
        # The first process has the larger part of a batch, so it has seen what the outputs are.
        classes = processes.broadcast(self._classes)
        if not classes:
            return
        values = [0.0] * (2 * classes) if counted is None else counted.flatten().tolist()
        both = torch.tensor(processes.sum(values), device="cpu").view(2, classes)
        if float(both[0].sum()) < self.ENOUGH or not is_told:
            return
        counts = both[0]
        if is_first:
            warn_of_untrained(both[1], stacklevel=stacklevel + 1)
        share, commonest = (float((c / c.sum().clamp_min(1)).max()) for c in both)
        self._least = min(self._least, share)
        if is_last and share >= self.SHARE > commonest + 0.05 and self._least < self.BEFORE:
            warnings.warn(
                f"the training collapsed: {100 * share:.1f} % of the predictions of its last epoch are class "
                f"{int(counts.argmax())}, and {100 * commonest:.1f} % of the samples are of the commonest class; try a "
                f"smaller {mitigator.WEIGHT} (now {mitigator.weight:g}) or a smaller lr (now {mitigator.lr:g})",
                stacklevel=stacklevel,
            )


def warn_of_untrained(counts: Tensor, *, stacklevel: int) -> None:
    """Warn of outputs that are the class of no training sample: the training teaches the model never to say them.

    Args:
        counts: of the samples of each output's class, (outputs,).
        stacklevel: of the warning.
    """
    outputs = (counts == 0).nonzero()[:, 0].tolist()
    if outputs:
        listed = ", ".join(map(str, outputs[:5])) + (f" and {len(outputs) - 5} more" if len(outputs) > 5 else "")
        warnings.warn(
            f"{len(outputs)} of the model's {len(counts)} outputs are the class of no training sample ({listed}), so "
            "the training teaches the model never to predict them; add such samples, or give the model a head for the "
            "classes at hand",
            stacklevel=stacklevel,
        )


@contextlib.contextmanager
def explain_batchnorm_error() -> Iterator[None]:
    """While active, BatchNorm's error for a single sample becomes a sentence with a remedy.

    Raises:
        InvalidInputError: where BatchNorm in training mode meets a single value.
    """
    try:
        yield
    except ValueError as err:
        if "more than 1 value per channel" not in str(err):
            raise
        raise InvalidInputError(
            "BatchNorm in training mode cannot take a batch of one sample: use batch_size >= 2 (drop_last=True in a "
            "DataLoader whose last batch has one), or put the model's BatchNorm layers in evaluation mode"
        ) from err

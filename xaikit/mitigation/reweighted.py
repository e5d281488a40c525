"""A mitigator that weighs the samples of the task's loss anew; no explanation takes part."""

from __future__ import annotations

import abc
import contextlib
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError
from xaikit.core.model_state import buffers_kept_on_error, isolated
from xaikit.mitigation.base import Loss, Mitigator
from xaikit.mitigation.checks import explain_batchnorm_error
from xaikit.mitigation.fabric import BatchFraction
from xaikit.mitigation.forward import logits_of
from xaikit.mitigation.groups import GroupWeights, SampleGroups, class_codes, groups_of_function, read_group_names
from xaikit.mitigation.loss_watch import ranges_and_losses_known
from xaikit.mitigation.penalties import at_least_float32, gradient_ratio


class ReweightedMitigator(Mitigator):
    """Mean cross-entropy + weight * (another mean of the same losses - mean cross-entropy).

    At weight 1 only the other mean counts, at 0 the task's loss is the plain one. One forward pass gives both.
    ``explainer`` has no effect.
    """

    NEEDS_MASK: ClassVar[bool] = False
    TAKES_GROUPS: ClassVar[bool] = True
    USES_EXPLAINER: ClassVar[bool] = False
    EXPLAINS_AS_DEPLOYED: ClassVar[bool] = False
    EMPTY_MASK_WARNING: ClassVar[str | None] = None

    def loss(  # noqa: PLR0913
        self,
        model: nn.Module,
        batch: Any,
        *,
        seed: int | None = None,
        weight: float | None = None,
        groups: Any = None,
        group_weights: GroupWeights | None = None,
    ) -> Loss:
        """The loss of one batch.

        Args:
            model: as for `Mitigator.loss`.
            batch: likewise; masks have no effect.
            seed: has no effect.
            weight: in place of the setting; 0 is the plain step, bit for bit.
            groups: names or numbers of the samples' groups, (N,); None takes the classes.
            group_weights: what the training keeps of each group, changed by the call as by `torch.optim` an optimizer;
                None keeps nothing.

        Returns:
            As `Mitigator.loss`.

        Raises:
            InvalidInputError, InvalidTypeError: for inputs, labels or groups that cannot be right.
        """
        # The numbers of the groups were made here and need no check.
        part = batch[:3] if isinstance(batch, Batch) else batch
        with ranges_and_losses_known(self, model, part) as note:
            read = self._read(model, batch)
            if groups is not None:
                weights = GroupWeights() if group_weights is None else group_weights
                names = (
                    groups_of_function(groups, read.inputs, read.labels, read.size)
                    if callable(groups)
                    else read_group_names(groups, read.size)
                )
                read = read._replace(groups=SampleGroups(weights.codes(names), weights))
            elif group_weights is not None and read.groups is None:
                read = read._replace(groups=SampleGroups(class_codes(read.labels), group_weights))
            return note(self._loss(model, read, seed, weight))

    def _loss(self, model: nn.Module, batch: Batch, seed: int | None, weight: float | None) -> Loss:  # noqa: ARG002
        weight = self.weight if weight is None else weight
        with buffers_kept_on_error(model), explain_batchnorm_error():
            logits = logits_of(model, batch.inputs, self.head)
            labels = self.task_labels(batch.labels, logits)
            task = self.task_of(logits, labels)
            with torch.no_grad() if weight == 0 else contextlib.nullcontext():
                # The samples of this training come without groups, and labels that are no classes cannot replace them.
                grouped = weight != 0 or batch.groups is not None or not self.takes_any_labels
                penalty = self._mean(logits, labels, batch, keep=weight != 0) - task if grouped else 0 * task
            if weight == 0:
                return Loss(task, penalty, task, logits)
            scale = gradient_ratio(task, penalty, model.parameters()) if self.balance else 1.0
            return Loss(task, penalty, task + weight * scale * penalty, logits)

    def _penalty(self, model: nn.Module, x: Any, y: Tensor, masks: Any, *, seed: int, create_graph: bool) -> Tensor:
        apart = contextlib.nullcontext() if create_graph else isolated(model, y.device, seed)
        with apart:
            logits = logits_of(model, x, self.head)
        labels = self.task_labels(y, logits)
        # Checked before the first step, without the groups of the training, which such labels cannot replace.
        if self.takes_any_labels:
            return self.sample_losses(logits, labels).mean() - self.task_of(logits, labels)
        return self._mean(logits, labels, Batch(x, y, masks), keep=False) - self.task_of(logits, labels)

    @abc.abstractmethod
    def _mean(self, logits: Tensor, labels: Tensor, batch: Batch, *, keep: bool) -> Tensor:
        """The other mean of the samples' losses; `keep` says whether what a training keeps may be changed."""

    def penalty_share(self, fraction: BatchFraction) -> float:  # noqa: ARG002
        """Refused: the groups of a part of a batch are others than those of the whole.

        Args:
            fraction: how much of the batch the part is.

        Raises:
            InvalidInputError: always.
        """
        raise InvalidInputError(
            f"{type(self).__name__} weighs the samples of whole batches, so it trains in one process; leave out fabric="
        )

    def sample_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The task's loss of each sample, (N,).

        Args:
            logits: of the model.
            labels: as `task_labels` gives them.
        """
        full = at_least_float32(logits)
        if self.takes_any_labels:
            return torch.stack([self.task_of(full[i : i + 1], labels[i : i + 1]) for i in range(len(labels))])
        if labels.is_floating_point():
            return (full.reshape(labels.shape) - labels).square()
        if full.numel() == len(full):
            plain = F.binary_cross_entropy_with_logits
            return plain(full.reshape(labels.shape), labels.to(full.dtype), reduction="none")
        return F.cross_entropy(full, labels, reduction="none")

    def group_means(self, logits: Tensor, labels: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The mean loss of each group (G,), 0 for a group without a sample in the batch; and the samples of each (G,).

        Args:
            logits: of the model.
            labels: as `task_labels` gives them.
            batch: with its groups; without, these are the classes.
        """
        losses = self.sample_losses(logits, labels)
        if batch.groups is None:
            codes, n = class_codes(labels), max(2, logits.shape[-1] if logits.ndim > 1 else 1)
        else:
            codes = batch.groups.codes.to(losses.device)
            n = len(batch.groups.weights.names) or max(2, logits.shape[-1] if logits.ndim > 1 else 1)
        counts = torch.zeros(n, dtype=losses.dtype, device=losses.device).index_add(0, codes, torch.ones_like(losses))
        sums = torch.zeros(n, dtype=losses.dtype, device=losses.device).index_add(0, codes, losses)
        return sums / counts.clamp_min(1), counts

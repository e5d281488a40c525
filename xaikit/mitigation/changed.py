"""Mitigators that also train on a changed version of the batch: the penalty is the task loss there."""

from __future__ import annotations

import abc
import contextlib
from typing import Any, ClassVar

from torch import Tensor, nn

from xaikit.core.model_state import evaluated
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.fabric import BatchFraction
from xaikit.mitigation.forward import logits_of
from xaikit.mitigation.penalties import at_least_float32


class ChangedMitigator(Mitigator):
    """Mean cross-entropy + weight * mean cross-entropy of the changed samples with the same labels.

    It computes no explanation, so ``explainer`` has no effect.
    """

    EXPLAINS_AS_DEPLOYED: ClassVar[bool] = False

    def _penalty(self, model: nn.Module, x: Any, y: Tensor, masks: Any, *, seed: int, create_graph: bool) -> Tensor:
        # Only measured, the pass must leave no trace in the model.
        with contextlib.nullcontext(model) if create_graph else evaluated(model, y.device) as running:
            return self.task_of(at_least_float32(self._changed_logits(running, x, masks, seed)), y)

    def penalty_share(self, fraction: BatchFraction) -> float:
        """The part's share of all samples, over which the penalty is a mean.

        Args:
            fraction: how much of the batch the part is.
        """
        return fraction.samples

    @abc.abstractmethod
    def _changed_logits(self, model: nn.Module, x: Any, masks: Any, seed: int) -> Tensor:
        """The logits of the changed samples."""

    def _logits(self, model: nn.Module, x: Any) -> Tensor:
        return logits_of(model, x, self.head)

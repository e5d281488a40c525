"""Just train twice: the samples that a first training gets wrong come more often in a second one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import MITIGATORS, Float, Int
from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError
from xaikit.core.model_copy import trainable_copy
from xaikit.mitigation.arrangement import drawn, grouped, in_order, sample_count
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.early_stopping import EarlyStopping
from xaikit.mitigation.fabric import BatchFraction, OneProcess
from xaikit.mitigation.forward import evaluating, logits_of
from xaikit.mitigation.groups import GroupReader, SampleGroups
from xaikit.mitigation.reweighted import ReweightedMitigator
from xaikit.mitigation.sources import Source
from xaikit.mitigation.task_losses import is_multi_label
from xaikit.mitigation.trainer import Options, train


@MITIGATORS.register("jtt")
class JTT(ReweightedMitigator):
    """Mean cross-entropy + lambda_jtt * mean of [wrong] * cross-entropy: just train twice (Liu et al. 2021).

    `fit` first trains a copy of the model for `first_epochs` and looks which samples that copy gets wrong, then trains
    the model on samples of which these come 1 + lambda_jtt times as often, with the plain loss (arXiv:2107.09044). No
    groups and no masks are needed; it helps where the samples that contradict the shortcut are among the training
    samples. Start from an untrained model, or with ``first_epochs=0`` from the errors of the model as it comes.

    In `loss` the wrong samples are those that the model itself gets wrong now; ``groups=``, (N,) true or false, names
    those of a first model.

    >>> import torch
    >>> x = torch.rand(8, 4)
    >>> jtt = JTT(lr=0.1, n_epochs=20, random_state=0)
    >>> history = jtt.fit(torch.nn.Linear(4, 2), x, (x[:, 0] > 0.5).long(), progress=False)
    >>> history["task"][-1] < history["task"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_jtt"

    lambda_jtt: Annotated[
        float, Float(low=1.0, high=100.0, log=True, ge=0), "how many times more a wrong one comes"
    ] = 20.0
    first_epochs: Annotated[int, Int(low=1, high=10, ge=0), "of the first training; 0 takes the model as it is"] = 1

    @contextlib.contextmanager
    def _training(self, model: nn.Module, source: Source, groups: Any) -> Iterator[tuple[Mitigator, Source]]:
        if groups is None:
            first = self._first(model, source)

            def groups(x: Any, y: Tensor) -> list[bool]:
                return self._wrong(first, x, y)

        if sample_count(source) is None:
            yield self, grouped(source, groups)
            return
        reader = GroupReader(groups, sample_count(source))
        parts = [_flags(reader.put(batch, rows).groups) for batch, rows in in_order(source)]
        wrong = torch.cat(parts).double()
        if float(wrong.mean()) in (0.0, 1.0):
            warnings.warn(
                f"the first training gets {'all' if bool(wrong[0]) else 'none'} of the samples wrong, so that none "
                f"comes more often than another; change first_epochs (now {self.first_epochs})",
                stacklevel=4,
            )
        yield self.set_kwargs(**{self.WEIGHT: 0.0}), drawn(source, 1 + self.weight * wrong)

    def _first(self, model: nn.Module, source: Source) -> nn.Module:
        """A copy of the model that was trained for `first_epochs`, whose errors are looked at."""
        first = trainable_copy(model)
        if self.first_epochs:
            options = Options(None, EarlyStopping(None, None, patience=None, head=self.head), progress=False)
            changes: dict[str, Any] = {"n_epochs": self.first_epochs, "patience": None, self.WEIGHT: 0.0}
            train(OneProcess(), self.set_kwargs(**changes), first, source, options)
        return first

    def _wrong(self, first: nn.Module, x: Any, y: Tensor) -> list[bool]:
        """Which samples of a batch a model gets wrong."""
        with evaluating(first) as device:
            batch = Batch(x, y).to(device)
            logits = logits_of(first, batch.inputs, self.head)
            wrong: list[bool] = self._errors(logits, self.task_labels(batch.labels, logits)).tolist()
        return wrong

    def _errors(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Whether each sample's predicted class is not its label; of several labels, whether any of them is missed."""
        if labels.shape != logits.shape or logits.ndim < 2:
            return _predicted(logits) != labels
        if is_multi_label(self.task_loss):
            return ((logits > 0) != (labels > 0.5)).flatten(1).any(1)
        return logits.argmax(-1) != labels.argmax(-1)

    def _mean(self, logits: Tensor, labels: Tensor, batch: Batch, *, keep: bool) -> Tensor:  # noqa: ARG002
        losses = self.sample_losses(logits, labels)
        wrong = self._errors(logits, labels) if batch.groups is None else _flags(batch.groups)
        return losses.mean() + (wrong.to(losses) * losses).mean()

    def penalty_share(self, fraction: BatchFraction) -> float:
        """The mean is over all samples.

        Args:
            fraction: how much of the batch the part is.
        """
        return fraction.samples


def _predicted(logits: Tensor) -> Tensor:
    return (logits.reshape(-1) > 0).long() if logits.numel() == len(logits) else logits.argmax(-1)


def _flags(groups: SampleGroups) -> Tensor:
    """Which samples are named as wrong, (N,)."""
    names = groups.weights.names
    if any(name not in (True, False) for name in names):
        strange = next(name for name in names if name not in (True, False))
        raise InvalidInputError(
            f"groups of JTT say of each sample whether a first model gets it wrong, true or false; got {strange!r}"
        )
    return torch.tensor([bool(name) for name in names], device="cpu")[groups.codes.cpu()]

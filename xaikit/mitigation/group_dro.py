"""Group distributionally robust optimisation: the worst group of samples decides the loss."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from xaikit.core import MITIGATORS, Float
from xaikit.core.batch import Batch
from xaikit.mitigation.arrangement import grouped
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.reweighted import ReweightedMitigator
from xaikit.mitigation.sources import Source


@MITIGATORS.register("group_dro")
class GroupDRO(ReweightedMitigator):
    """The weighted sum of the groups' mean losses, in which the worst group gains weight (Sagawa et al. 2020).

    In each step the weight of group g, whose samples in the batch have the mean loss L_g, becomes q_g exp(step_size *
    L_g), normalised to a sum of 1; the loss is sum of q_g L_g (arXiv:1911.08731, algorithm 1). `adjustment` adds
    adjustment / sqrt(n_g) to the loss of a group of n_g samples in the batch before the weights change, so that small
    groups count more. The paper needs a strong `weight_decay` or early stopping beside it.

    The weights are kept from step to step by `fit`, and in a loop of one's own by the ``group_weights=`` of `loss`,
    without which they are equal. ``groups=`` of `fit` and `loss` names the group of each training sample: its class
    together with its shortcut, such as ``[f"{label} {background}" for ...]``. ``lambda_dro=1`` is the published loss, 0
    the plain one.

    >>> import torch
    >>> x, y = torch.rand(8, 4), torch.tensor([0, 1] * 4)
    >>> dro = GroupDRO(lr=0.1, n_epochs=20, random_state=0)
    >>> history = dro.fit(torch.nn.Linear(4, 2), x, y, groups=["sea", "sea", "land", "land"] * 2, progress=False)
    >>> history["total"][-1] < history["total"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_dro"

    lambda_dro: Annotated[float, Float(low=0.1, high=1.0, ge=0), "1: the published loss; 0: the plain mean"] = 1.0
    step_size: Annotated[float, Float(low=1e-3, high=1.0, log=True, gt=0), "of the groups' weights"] = 0.01
    adjustment: Annotated[float, Float(ge=0), "how much more a small group counts"] = 0.0

    @contextlib.contextmanager
    def _training(self, model: nn.Module, source: Source, groups: Any) -> Iterator[tuple[Mitigator, Source]]:  # noqa: ARG002
        yield self, grouped(source, groups)

    def _mean(self, logits: Tensor, labels: Tensor, batch: Batch, *, keep: bool) -> Tensor:
        means, counts = self.group_means(logits, labels, batch)
        if batch.groups is None:  # nothing is kept from step to step, so all groups have the same weight
            return means.mean()
        weights = batch.groups.weights
        adjusted = (means + self.adjustment * counts.clamp_min(1).rsqrt()).detach()
        logs = (weights.logs(len(means), adjusted) + self.step_size * adjusted * (counts > 0)).log_softmax(0)
        if keep:
            weights.keep(logs)
        return (logs.exp() * means).sum()

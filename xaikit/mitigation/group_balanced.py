"""Group-balanced sampling: every group of samples is trained on equally often."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import MITIGATORS, Float
from xaikit.core.batch import Batch
from xaikit.mitigation.arrangement import drawn, grouped, in_order, sample_count
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.groups import GroupReader
from xaikit.mitigation.reweighted import ReweightedMitigator
from xaikit.mitigation.sources import Source


@MITIGATORS.register("group_balanced")
class GroupBalanced(ReweightedMitigator):
    """The mean over the groups of their mean losses, as Idrissi et al. 2022 compare it with more costly methods.

    `fit` draws the samples of a training so that every group comes equally often, with replacement, as many in an epoch
    as there are samples (arXiv:2110.14503), and takes the plain loss of these. Where no samples can be drawn, from an
    iterable of batches and in `loss`, the groups of a batch are weighed equally instead.

    ``groups=`` of `fit` and `loss` names the group of each training sample: its class together with its shortcut.
    ``lambda_groups=1`` is that mean, 0 the plain one.

    >>> import torch
    >>> x, y = torch.rand(8, 4), torch.tensor([0, 1] * 4)
    >>> balanced = GroupBalanced(lr=0.1, n_epochs=20, random_state=0)
    >>> history = balanced.fit(torch.nn.Linear(4, 2), x, y, groups=["sea"] * 6 + ["land"] * 2, progress=False)
    >>> history["task"][-1] < history["task"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_groups"

    lambda_groups: Annotated[float, Float(low=0.1, high=1.0, ge=0), "1: groups count alike; 0: the plain mean"] = 1.0

    @contextlib.contextmanager
    def _training(self, model: nn.Module, source: Source, groups: Any) -> Iterator[tuple[Mitigator, Source]]:  # noqa: ARG002
        if sample_count(source) is None:
            yield self, grouped(source, groups)
        else:
            chances = self._chances(source, groups)
            yield self.set_kwargs(**{self.WEIGHT: 0.0}), drawn(source, chances)

    def _chances(self, source: Source, groups: Any) -> Tensor:
        """Of each sample, so that its group comes as often as any other; drawn towards the plain ones by the weight."""
        reader = GroupReader(groups, sample_count(source))
        codes = torch.cat([reader.put(b, rows).groups.codes.cpu() for b, rows in in_order(source)])
        _, codes, counts = codes.unique(return_inverse=True, return_counts=True)
        equal = 1 / (len(counts) * counts.double())
        return (self.weight * equal + (1 - self.weight) / len(codes)).clamp_min(0)[codes]

    def _mean(self, logits: Tensor, labels: Tensor, batch: Batch, *, keep: bool) -> Tensor:  # noqa: ARG002
        means, counts = self.group_means(logits, labels, batch)
        present = (counts > 0).to(means)
        return (means * present).sum() / present.sum()

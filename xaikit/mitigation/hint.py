"""Human importance-aware network tuning: a reward for explanations that lie where a person says they should."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import MITIGATORS, Categorical, Float, Int
from xaikit.core.structure import Tensors, by_row
from xaikit.mitigation.attributed import AttributionMitigator
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.followed import warn_if_followed
from xaikit.mitigation.penalties import EXPLANATION, OUTPUTS, TARGETS, at_least_float32
from xaikit.mitigation.sources import Source

FORMS = ("ranking", "share")


@MITIGATORS.register("hint")
class HINT(AttributionMitigator):
    """Mean cross-entropy + lambda_hint * how far the explanation is from the region where it should lie.

    The mask is that region: 1 where the explanation should lie (Selvaraju et al. 2019, arXiv:1902.03751). The
    attribution is added over channels and averaged over the cells of a grid, which gives a_i; m_i is the mask's mean in
    a cell. The penalty of each sample that has a mask is

    * ``form="share"``: 1 - sum m_i |a_i| / sum |a_i|, the share of the attribution outside the region;
    * ``form="ranking"``, as published (`HINT.published`): the sum of max(0, a_j - a_i) over the pairs of cells with
      m_i > m_j, so pairs that the network ranks the other way are penalised. The paper takes a detector's regions, we
      take the cells. Of the label's score alone it takes few shortcuts away.

    ``normalization="total"`` divides a ranking by the sample's sum |a_i|, so that smaller weights do not shrink it.

    >>> import torch
    >>> model = torch.nn.Linear(4, 2)
    >>> x, y, region = torch.rand(8, 4), torch.tensor([0, 1] * 4), torch.tensor([0.0, 1, 1, 1])
    >>> hint = HINT(lr=0.1, n_epochs=20, random_state=0)
    >>> history = hint.fit(model, x, y, region, progress=False)
    >>> history["penalty"][-1] < history["penalty"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_hint"
    CHANNELS_FIRST: ClassVar[bool] = True
    MASK_NAME: ClassVar[str] = "relevant_region"

    explainer: Annotated[Any, EXPLANATION, "the explanation: a name, a spec string, a class or an object"] = (
        "gradient_x_input"
    )
    target: Annotated[str, Categorical(*TARGETS), "whose score is explained"] = "random"
    output: Annotated[str, Categorical(*OUTPUTS), "what the score is"] = "logit"
    lambda_hint: Annotated[float, Float(low=1e-2, high=1e4, log=True, ge=0), "weight of the penalty"] = 10.0
    form: Annotated[str, Categorical(*FORMS), "of the penalty"] = "share"
    grid: Annotated[int, Int(ge=2), "cells along each axis of an image; other inputs are ranked as they are"] = 7
    normalization: Annotated[str, Categorical("none", "total", search=False), "of a ranking"] = "none"

    @classmethod
    def published(cls, **settings: Any) -> Self:
        """The form of the paper: a ranking of the label's score.

        Args:
            settings: in place of others.
        """
        return cls(**{"form": "ranking", "target": "label", "lambda_hint": 1.0, **settings})

    @contextlib.contextmanager
    def _training(self, model: nn.Module, source: Source, groups: Any) -> Iterator[tuple[Mitigator, Source]]:
        with super()._training(model, source, groups) as arranged:
            yield arranged
        warn_if_followed(self, model, source, stacklevel=5)

    def _full_mask_warning(self) -> str | None:
        return "no explanation lies outside it: mask the region where the explanation should lie"

    def _attribution_penalty(self, attributions: Tensors, masks: Tensors) -> Tensor:
        cells = [self._cells(a, m) for a, m in zip(attributions, masks, strict=True)]
        a, m = (torch.cat(parts, 1) for parts in zip(*cells, strict=True))
        total = a.abs().sum(1).clamp_min(torch.finfo(a.dtype).tiny)
        if self.form == "share":
            penalties = 1 - (m * a.abs()).sum(1) / total
        else:
            # gaps[n, i, j] = a_j - a_i
            gaps = (a[:, None, :] - a[:, :, None]).relu() * (m[:, :, None] > m[:, None, :])
            penalties = gaps.sum((1, 2)) / (total if self.normalization == "total" else 1)
        masked = (m != 0).any(1)
        return (penalties * masked).sum() / masked.sum().clamp_min(1)

    def _cells(self, attribution: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The attribution and the mask of each cell, (N, cells)."""
        a, m = at_least_float32(attribution), mask.to(at_least_float32(attribution))
        if a.ndim > 2:
            a, m = a.sum(1, keepdim=True), m.amax(1, keepdim=True)
        if a.ndim == 4:
            size = (min(self.grid, a.shape[2]), min(self.grid, a.shape[3]))
            a, m = F.adaptive_avg_pool2d(a, size), F.adaptive_avg_pool2d(m, size)
        return by_row(a), by_row(m)

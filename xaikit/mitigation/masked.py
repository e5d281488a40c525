"""Mitigators that penalise what an attribution has inside a mask."""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor

from xaikit.core import PROJECTIONS, Categorical, Choice, Float
from xaikit.core.structure import Tensors
from xaikit.mitigation.attributed import AttributionMitigator
from xaikit.mitigation.fabric import BatchFraction
from xaikit.mitigation.penalties import NORMALIZATIONS, masked_power
from xaikit.mitigation.projections import All


class MaskedMitigator(AttributionMitigator):
    """The penalty is the sum over features of mask * |what(attribution)|**power."""

    what: Annotated[Any, Choice(PROJECTIONS), "what of the attribution is penalised: a name, an object, a function"] = (
        "all"
    )
    reduction: Annotated[str, Categorical("sum", "mean", search=False), "over the samples (with a mask) of a batch"] = (
        "sum"
    )
    power: Annotated[float, Float(gt=0), "of the absolute attribution"] = 2.0
    normalization: Annotated[str, Categorical(*NORMALIZATIONS, search=False), "of the penalty"] = "none"
    score_reduction: Annotated[
        str, Categorical("sum", "mean", search=False), "'mean' explains the batch's mean score: attributions / N"
    ] = "sum"

    def _full_mask_warning(self) -> str | None:
        all_classes = isinstance(self.what, All)
        return (
            "the whole explanation is penalised: mask what must not matter, or say what= of it must not"
            if all_classes
            else None
        )

    def _attribution_penalty(self, attributions: Tensors, masks: Tensors) -> Tensor:
        if self.score_reduction == "mean":
            attributions = tuple(a / len(a) for a in attributions)
        return masked_power(
            attributions,
            masks,
            what=self.what,
            power=self.power,
            normalization=self.normalization,
            reduction=self.reduction,
        )

    def penalty_share(self, fraction: BatchFraction) -> float:
        """The weight of a part of a batch; if the penalty is divided by masked entries or samples, the part's share.

        Args:
            fraction: how much of the batch the part is.
        """
        divided = fraction.masked if self.normalization == "mask" else 1.0
        scaled = fraction.samples**self.power if self.score_reduction == "mean" else 1.0
        return super().penalty_share(fraction) * divided * scaled

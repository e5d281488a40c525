"""Mitigators that penalise what an attribution has inside a mask."""

from __future__ import annotations

import warnings
from typing import Annotated, Any

from torch import Tensor

from xaikit.core import PROJECTIONS, Categorical, Choice, Float
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors, flatten
from xaikit.mitigation.attributed import AttributionMitigator
from xaikit.mitigation.fabric import BatchFraction
from xaikit.mitigation.penalties import NORMALIZATIONS, masked_power
from xaikit.mitigation.projections import All
from xaikit.mitigation.units import CANCELLED, MOST_CANCELLED, check_units, read_units, summed, sums_cancel


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

    units: Annotated[
        Any,
        check_units,
        "a function from token ids to each token's unit, such as WordUnits(tokenizer); units are summed",
    ] = None

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.units is not None and not (isinstance(self.what, All) and self.normalization != "mask"):
            raise InvalidInputError(
                f"units= sums the attribution of each unit, so it goes with what='all' and not with "
                f"normalization='mask', got what={self.what!r}, normalization={self.normalization!r}"
            )

    def _full_mask_warning(self) -> str | None:
        all_classes = isinstance(self.what, All)
        return (
            "the whole explanation is penalised: mask what must not matter, or say what= of it must not"
            if all_classes
            else None
        )

    def _number(self, explained: Any, x: Any, masks: Any) -> Tensor:
        if self.units is None:
            return super()._number(explained, x, masks)
        attributions, inputs = flatten(explained, "attributions")[0], flatten(x)[0]
        fitted = self._masks(masks, attributions, inputs)
        pairs = [
            summed(a, m.to(a), read_units(self.units, inputs, a)) for a, m in zip(attributions, fitted, strict=True)
        ]
        is_small = 0 < self.weight < 1 / MOST_CANCELLED and not self.balance
        if is_small and all(sums_cancel(*triple) for triple in zip(attributions, fitted, pairs, strict=True)):
            warnings.warn(CANCELLED, stacklevel=2)
        return self._attribution_penalty(tuple(a for a, _ in pairs), tuple(m for _, m in pairs))

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

"""Right for the right reasons: a penalty on what an explanation finds inside a mask."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from torch import Tensor

from xaikit.core import MITIGATORS, PROJECTIONS, Categorical, Choice, Float
from xaikit.core.structure import Tensors
from xaikit.mitigation.attributed import AttributionMitigator
from xaikit.mitigation.fabric import BatchFraction
from xaikit.mitigation.penalties import NORMALIZATIONS, masked_power
from xaikit.mitigation.projections import All


@MITIGATORS.register("rrr")
class RRR(AttributionMitigator):
    """Mean cross-entropy + lambda_rrr * sum(mask * (d log p(y|x) / dx)**2) (Ross et al. 2017, arXiv:1703.03717).

    The gradient is the default explanation; any registered differentiable explainer can take its place. Other settings
    give the other published forms: the 2017 code explains ``target="all"``; ``normalization="mask"`` also divides by
    the number of masked entries; ``what="channel_sum"`` adds the gradients of a position's channels first.

    The mask says where the explanation must not look, and `what` which part of it is penalised there. Penalising single
    pixels does not help if the shortcut is spread over the image, as a colour is. ``what="chroma", target="random",
    output="logit", reduction="mean"`` with a mask of the object does.

    >>> import torch
    >>> model = torch.nn.Linear(4, 2)
    >>> x, y, mask = torch.rand(8, 4), torch.tensor([0, 1] * 4), torch.tensor([1.0, 0, 0, 0])
    >>> history = RRR(lambda_rrr=10.0, lr=0.1, n_epochs=20, random_state=0).fit(model, x, y, mask, progress=False)
    >>> history.epochs[-1]["penalty"] < history.epochs[0]["penalty"]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_rrr"

    lambda_rrr: Annotated[float, Float(low=1e-2, high=1e4, log=True, ge=0), "weight of the penalty"] = 1.0
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

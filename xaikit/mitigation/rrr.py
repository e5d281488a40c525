"""Right for the right reasons: a penalty on what an explanation finds inside a mask."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from xaikit.core import MITIGATORS, Categorical, Float
from xaikit.core.structure import flatten
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.fabric import Share
from xaikit.mitigation.masks import fit_masks
from xaikit.mitigation.penalties import NORMALIZATIONS, OUTPUTS, TARGETS, masked_power, score_function


@MITIGATORS.register("rrr")
class RRR(Mitigator):
    """Mean cross-entropy + lambda_rrr * sum(mask * (d log p(y|x) / dx)**2) (Ross et al. 2017, arXiv:1703.03717).

    The gradient is the default explanation; any registered differentiable explainer can take its place. The published
    forms are settings away: the 2017 code explains ``target="all"``; with ``normalization="mask"`` it also divides by
    the number of masked entries.

    >>> import torch
    >>> model = torch.nn.Linear(4, 2)
    >>> x, y, mask = torch.rand(8, 4), torch.tensor([0, 1] * 4), torch.tensor([1.0, 0, 0, 0])
    >>> history = RRR(lambda_rrr=10.0, lr=0.1, n_epochs=20, random_state=0).fit(model, x, y, mask, progress=False)
    >>> history.epochs[-1]["penalty"] < history.epochs[0]["penalty"]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_rrr"

    lambda_rrr: Annotated[float, Float(low=1e-2, high=1e4, log=True, ge=0), "weight of the penalty"] = 1.0
    target: Annotated[str, Categorical(*TARGETS, search=False), "whose score is explained"] = "label"
    output: Annotated[str, Categorical(*OUTPUTS, search=False), "what the score is"] = "log_probability"
    reduction: Annotated[str, Categorical("sum", "mean", search=False), "over the samples of a batch"] = "sum"
    power: Annotated[float, Float(gt=0), "of the absolute attribution"] = 2.0
    channels: Annotated[str, Categorical("each", "sum", search=False), "channels apart, or added before the power"] = (
        "each"
    )
    normalization: Annotated[str, Categorical(*NORMALIZATIONS, search=False), "of the penalty"] = "none"
    score_reduction: Annotated[
        str, Categorical("sum", "mean", search=False), "'mean' explains the batch's mean score: attributions / N"
    ] = "sum"

    def _penalty(self, model: nn.Module, x: Any, y: Tensor, mask: Any, *, seed: int, create_graph: bool) -> Tensor:
        score = score_function(self.target, self.output, y)
        explained = self.explainer_for(model).attribute(x, score, create_graph=create_graph, seed=seed)
        attributions = flatten(explained, "attributions")[0]
        if self.score_reduction == "mean":
            attributions = tuple(a / len(y) for a in attributions)
        return masked_power(
            attributions,
            fit_masks(mask, attributions, flatten(x)[0]),
            power=self.power,
            channels=self.channels,
            normalization=self.normalization,
            reduction=self.reduction,
        )

    def penalty_share(self, share: Share) -> float:
        """As for any mitigator; a division by masked entries or by samples goes by those of the part."""
        divided = share.masked if self.normalization == "mask" else 1.0
        scaled = share.samples**self.power if self.score_reduction == "mean" else 1.0
        return super().penalty_share(share) * divided * scaled

"""Attribution priors: penalties without a mask. Explanations should be smooth over images, or sparse over columns."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor

from xaikit.core import MITIGATORS, Categorical, Float
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors, by_row
from xaikit.mitigation.attributed import AttributionMitigator
from xaikit.mitigation.fabric import BatchFraction
from xaikit.mitigation.penalties import EXPLANATION, OUTPUTS, at_least_float32

PRIORS = ("total_variation", "sparsity")


@MITIGATORS.register("attribution_prior")
class AttributionPrior(AttributionMitigator):
    """Mean cross-entropy + lambda_prior * a prior on the attributions (Erion et al. 2021, arXiv:1906.10670).

    * ``prior="total_variation"``, for images and series: the mean over samples of the sum of |a_p - a_q| over
      neighbouring positions p, q, along each axis after the channels;
    * ``prior="sparsity"``: -G, with the Gini coefficient G = sum over i, j of |g_i - g_j| / (2 F sum g_i) of the F
      features' global importances g_i = mean over samples of |a_i|.

    ``normalization="total"`` first divides each attribution by its sample's sum of absolute values; otherwise the total
    variation falls if the attribution shrinks. A mask is optional; it says where the prior holds. A prior takes no
    shortcut away, and `fit` says so where it is given a mask.

    The default differs from the paper, `AttributionPrior.published`, in its references, of which it has none: its
    expected gradients begin at zero.

    >>> import torch
    >>> x, y = torch.rand(8, 4), torch.tensor([0, 1] * 4)
    >>> prior = AttributionPrior(prior="sparsity", lambda_prior=1.0, lr=0.1, n_epochs=20, random_state=0)
    >>> history = prior.fit(torch.nn.Linear(4, 2), x, y, progress=False)
    >>> history["penalty"][-1] < history["penalty"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_prior"
    CHANNELS_FIRST: ClassVar[bool] = True
    MASK_NAME: ClassVar[str] = "relevant_region"
    NEEDS_MASK: ClassVar[bool] = False
    MASK_WARNING: ClassVar[str | None] = (
        "a prior shapes the explanation inside the region and leaves what lies outside alone, so it takes no shortcut "
        "away; for that use mend, CDEP with shortcut_masks=, or HINT with relevant_region="
    )

    explainer: Annotated[Any, EXPLANATION, "the explanation: a name, a spec string, a class or an object"] = (
        "expected_gradients:n_iter=1"
    )
    output: Annotated[str, Categorical(*OUTPUTS), "what the score is"] = "logit"
    lambda_prior: Annotated[float, Float(low=1e-2, high=1e4, log=True, ge=0), "weight of the penalty"] = 1.0
    prior: Annotated[str, Categorical(*PRIORS, search=False), "what is expected"] = "total_variation"
    normalization: Annotated[str, Categorical("none", "total", search=False), "of each attribution"] = "none"

    @classmethod
    def published(cls, references: Any, **settings: Any) -> Self:
        """The form of the paper: expected gradients of the label's logit, one draw a sample, from training samples.

        Its sparsity term is -2 G, so `lambda_prior` is then doubled. Its total variation is a sum over the samples
        where this is their mean.

        Args:
            references: training samples (K, ...), the background of the explanation; a few hundred will do.
            settings: in place of others; `lambda_prior` is that of the paper.
        """
        explainer = {"name": "expected_gradients", "settings": {"references": references, "n_iter": 1}}
        prior = cls(**{"explainer": explainer, **settings})
        return prior if prior.prior != "sparsity" else prior.set_kwargs(lambda_prior=2 * prior.lambda_prior)

    def penalty_share(self, fraction: BatchFraction) -> float:
        """The part's share of all samples, over which the penalty is a mean.

        Sparsity is computed of the mean attribution of a batch; each process takes that of its own part.

        Args:
            fraction: how much of the batch the part is.
        """
        return fraction.samples

    def _attribution_penalty(self, attributions: Tensors, masks: Tensors) -> Tensor:
        weighed = [at_least_float32(a) * m for a, m in zip(attributions, masks, strict=True)]
        if self.normalization == "total":
            total = torch.stack([by_row(a.abs()).sum(1) for a in weighed]).sum(0)
            total = total.clamp_min(torch.finfo(total.dtype).tiny)
            weighed = [a / total.view(-1, *[1] * (a.ndim - 1)) for a in weighed]
        if self.prior == "sparsity":
            return -gini(torch.cat([a.abs().mean(0).flatten() for a in weighed]))
        return torch.stack([total_variation(a) for a in weighed]).sum(0).mean()


def total_variation(values: Tensor) -> Tensor:
    """The sum of |a_p - a_q| over neighbouring positions of (N, C, ...), each sample's: (N,)."""
    if values.ndim < 3:
        raise InvalidInputError(
            f"total variation is over the positions of (N, channels, ...), and an attribution of shape "
            f"{tuple(values.shape)} has none; use prior='sparsity'"
        )
    return torch.stack([by_row(values.diff(dim=axis).abs()).sum(1) for axis in range(2, values.ndim)]).sum(0)


def gini(values: Tensor) -> Tensor:
    """The Gini coefficient of values >= 0, (F,): 0 when all are equal, near 1 when one has everything.

    With the values in rising order, sum over i, j of |g_i - g_j| = 2 * sum over k of (2 k - F - 1) g_(k).

    >>> gini(torch.tensor([0.0, 0.0, 0.0, 1.0]))
    tensor(0.7500)
    """
    n = len(values)
    rank = torch.arange(1, n + 1, dtype=values.dtype, device=values.device)
    total = values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    return ((2 * rank - n - 1) * values.sort().values).sum() / (n * total)

"""Right for the right reasons: a penalty on what an explanation finds inside a mask."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from xaikit.core import MITIGATORS, Float
from xaikit.mitigation.masked import MaskedMitigator


@MITIGATORS.register("rrr")
class RRR(MaskedMitigator):
    """Mean cross-entropy + lambda_rrr * sum(mask * (d log p(y|x) / dx)**2), after Ross et al. 2017, arXiv:1703.03717.

    The paper penalises the gradient of the sum of log p over all classes: `RRR.published`. The default explains the
    label alone, as most later codes do. Where a model is sure, the label's log p is flat and the penalty does nothing,
    of which `fit` warns. The sum is not flat, but large: a fooled model of ten digits collapsed at weights of 0.1 to
    100 (11 % right; of two digits 97 % at 0.1, 26 % at 100), while ``target="random", output="logit"`` acts.

    The gradient is the default explanation; any registered differentiable explainer can take its place. Other settings
    give other codes' forms: ``normalization="mask"`` also divides by the number of masked entries;
    ``what="channel_sum"`` adds the gradients of a position's channels first.

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

    @classmethod
    def published(cls, **settings: Any) -> Self:
        """The form of the paper: the squared gradient, inside the mask, of the sum of log p over all classes.

        The paper adds up the cross-entropy over the samples of a batch, which is a mean here. So for its weight
        lambda_1, in batches of N samples, set ``lambda_rrr=lambda_1 / N``; and for its lambda_2 times the squared norm
        of the weights ``weight_decay=2 * lambda_2 / N``. Its code has lambda_1 = 1000 and N = 256, so the default is 4.

        Args:
            settings: in place of others.
        """
        return cls(**{"target": "all", "lambda_rrr": 4.0, **settings})

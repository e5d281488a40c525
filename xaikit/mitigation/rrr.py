"""Right for the right reasons: a penalty on what an explanation finds inside a mask."""

from __future__ import annotations

from typing import Annotated, ClassVar

from xaikit.core import MITIGATORS, Float
from xaikit.mitigation.masked import MaskedMitigator


@MITIGATORS.register("rrr")
class RRR(MaskedMitigator):
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

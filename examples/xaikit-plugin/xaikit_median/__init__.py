"""MedianGrad: like SmoothGrad, but one wild copy cannot pull the result."""

from typing import Annotated

import torch
from torch import nn

from xaikit import EXPLAINERS, Explainer, Float, Int


@EXPLAINERS.register("median_grad")
class MedianGrad(Explainer):
    """Median of the gradient over noisy copies of the input."""

    SUPPORTED_MODULES = (nn.Module,)
    noise_level: Annotated[float, Float(low=0.05, high=0.5, step=0.05, ge=0), "noise std"] = 0.1
    n_iter: Annotated[int, Int(low=5, high=25, step=10, ge=1), "noisy copies"] = 5

    def _attribute(self, call):
        # Drawn for one sample and used for all: a sample alone gets what it gets in a batch, in any precision.
        draws = [torch.randn(self.n_iter, 1, *x.shape[1:]).to(x) for x in call.inputs]
        noisy = tuple((x + self.noise_level * d).flatten(0, 1) for x, d in zip(call.inputs, draws, strict=True))
        gradients = call.grad_of(noisy, copies=self.n_iter)
        return tuple(g.unflatten(0, (self.n_iter, call.n)).median(0).values for g in gradients)

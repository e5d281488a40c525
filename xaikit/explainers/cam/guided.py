"""Guided GradCam: the fine map of guided backpropagation inside the coarse map of GradCam."""

from __future__ import annotations

import dataclasses

from xaikit.core import EXPLAINERS, Call
from xaikit.core.structure import Tensors
from xaikit.explainers.cam.gradients import GradCam
from xaikit.explainers.functional_relu import Guided, replaced_relu


@EXPLAINERS.register("guided_gradcam")
class GuidedGradCam(GradCam):
    """GradCam's map times the gradient of guided backpropagation (Selvaraju et al. 2017, Springenberg et al. 2015).

    In guided backpropagation every ReLU passes only positive gradients back, where its input was positive. It looks
    sharp, and depends on the model less than other methods do (Adebayo et al. 2018, arXiv:1810.03292).
    """

    PASSES = (2,)

    def _attribute(self, call: Call) -> Tensors:
        maps = super()._attribute(call)
        guided = dataclasses.replace(call, on_output=None, passes_kept=None)
        with replaced_relu(Guided.apply):
            gradients = guided.grad_at_layers()[1]
        return tuple(m * g for m, g in zip(maps, gradients, strict=True))

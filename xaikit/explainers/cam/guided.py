"""Guided GradCam: the fine map of guided backpropagation inside the coarse map of GradCam."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import torch
from torch import Tensor

from xaikit.core import EXPLAINERS, Call
from xaikit.core.structure import Tensors
from xaikit.explainers.cam.gradients import GradCam
from xaikit.explainers.functional_relu import refuse_hidden_relus, replaced_relu


class Switch:
    """Whether the ReLUs of a pass let gradients through by the guided rule, or by their derivative."""

    guided = True


class SwitchedRelu(torch.autograd.Function):
    """The ReLU of guided backpropagation in an explanation, a plain one in the backward pass of a loss on it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, switch: Switch) -> Tensor:  # noqa: ARG004, D102
        return x.relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004, D102
        x, ctx.switch = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,) = grads
        return (g.relu() if ctx.switch.guided else g) * (ctx.saved_tensors[0] > 0), None


@EXPLAINERS.register("guided_gradcam")
class GuidedGradCam(GradCam):
    """GradCam's map times the gradient of guided backpropagation (Selvaraju et al. 2017, Springenberg et al. 2015).

    In guided backpropagation every ReLU passes only positive gradients back, where its input was positive. It looks
    sharp, and depends on the model less than other methods do (Adebayo et al. 2018, arXiv:1810.03292).
    """

    PASSES = (2,)

    def _attribute(self, call: Call) -> Tensors:
        maps = super()._attribute(call)
        check = functools.partial(refuse_hidden_relus, call.inputs, method=type(self).__name__)
        guided = dataclasses.replace(call, on_output=check, passes_kept=None)
        switch = Switch()
        with replaced_relu(lambda x: SwitchedRelu.apply(x, switch)):
            gradients = guided.grad_at_layers()[1]
        switch.guided = False
        return tuple(m * g for m, g in zip(maps, gradients, strict=True))

"""The plain gradient and its product with the input."""

from __future__ import annotations

from typing import ClassVar

from xaikit.core import EXPLAINERS, Call, Explainer
from xaikit.core.structure import Tensors


@EXPLAINERS.register("gradient")
class Gradient(Explainer):
    """dS/dx of the explained score S (Simonyan et al. 2014, arXiv:1312.6034).

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> Gradient(model).attribute(torch.ones(1, 3), 0).equal(model.weight[:1])
    True
    """

    SINGLE_BACKWARD: ClassVar[bool] = True
    USES_GLOBAL_RANDOM: ClassVar[bool] = False
    SHARES_TASK_FORWARD: ClassVar[bool] = True

    def _attribute(self, call: Call) -> Tensors:
        return call.grad_at_layers()[1]


@EXPLAINERS.register("gradient_x_input")
class GradientXInput(Explainer):
    """x * dS/dx (Shrikumar et al. 2016, arXiv:1605.01713)."""

    SINGLE_BACKWARD: ClassVar[bool] = True
    USES_GLOBAL_RANDOM: ClassVar[bool] = False
    SHARES_TASK_FORWARD: ClassVar[bool] = True

    def _attribute(self, call: Call) -> Tensors:
        return tuple(x * g for x, g in zip(*call.grad_at_layers(), strict=True))

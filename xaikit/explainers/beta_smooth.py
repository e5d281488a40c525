"""The gradient with smoothed ReLUs: zennit's BetaSmooth, also for ReLUs that a model calls as functions."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import EXPLAINERS, Call, Explainer, Float
from xaikit.core.structure import Tensors
from xaikit.explainers.functional_relu import refuse_hidden_relus, replaced_relu


@dataclasses.dataclass
class Smoothing:
    """Whether the backward pass that runs now is the explanation's, and how sharp its ReLUs are."""

    beta: float
    active: bool = True


class SmoothedRelu(torch.autograd.Function):
    """A ReLU with the derivative sigmoid(beta x) in an explanation, and its own in the backward pass of a loss."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, smoothing: Smoothing) -> Tensor:  # noqa: ARG004, D102
        return x.relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004, D102
        x, ctx.smoothing = inputs
        ctx.save_for_backward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        (g,), (x,) = grads, ctx.saved_tensors
        return g * (torch.sigmoid(ctx.smoothing.beta * x) if ctx.smoothing.active else x > 0), None


@EXPLAINERS.register("beta_smooth")
class BetaSmooth(Explainer):
    """dS/dx with sigmoid(beta z), a softplus' derivative, as that of every ReLU of z (Dombrowski et al. 2019).

    The model computes what it computes; the way back alone is smooth (arXiv:1906.07983; zennit's composite BetaSmooth).
    A large beta gives the plain gradient. In a loss its derivative is exact: that of this explanation, which changes
    smoothly with the weights where the plain gradient jumps. ReLUs are the module, the functions called relu, and clamp
    and clip at 0; what is written as ``torch.maximum(x, 0)``, ``where`` or ``F.threshold`` keeps its derivative, as
    other activations do. Where a model has no ReLU it is the plain gradient; one inside TorchScript is refused. It sums
    to nothing in particular.

    >>> import torch
    >>> model = torch.nn.ReLU()
    >>> BetaSmooth(model, beta=1.0).attribute(torch.zeros(1, 1), 0)
    tensor([[0.5000]])
    """

    SUPPORTED_MODULES = (nn.ReLU,)
    SINGLE_BACKWARD: ClassVar[bool] = True
    USES_GLOBAL_RANDOM: ClassVar[bool] = False
    SHARES_TASK_FORWARD: ClassVar[bool] = True

    beta: Annotated[
        float, Float(low=1.0, high=100.0, log=True, gt=0), "sharpness; larger is nearer to the gradient"
    ] = 10.0

    def _attribute(self, call: Call) -> Tensors:
        smoothing = Smoothing(self.beta)

        def check(output: Tensor) -> None:
            refuse_hidden_relus(call.inputs, output, type(self).__name__)
            if call.on_output is not None:
                call.on_output(output)

        with replaced_relu(lambda x: SmoothedRelu.apply(x, smoothing)):
            gradients = dataclasses.replace(call, passes_kept=None, on_output=check).grad_at_layers()[1]
        smoothing.active = False
        return gradients

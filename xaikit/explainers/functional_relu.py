"""ReLUs that a model calls as functions, with the backward pass of GuidedBackprop or Deconvolution.

Captum only changes the backward pass of ReLU modules. Without this file, a functional ReLU would pass the plain
gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

IN_PLACE = frozenset({torch.relu_, Tensor.relu_})
PLAIN = frozenset({F.relu, torch.relu, Tensor.relu})
CLAMPS = frozenset({torch.clamp, Tensor.clamp, torch.clamp_min, Tensor.clamp_min, torch.clip, Tensor.clip})


class Guided(torch.autograd.Function):
    """The ReLU of GuidedBackprop: the gradient passes where it and x are positive (Springenberg et al. 2015)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: D102
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return grads[0].relu() * (ctx.saved_tensors[0] > 0)


class Deconvolved(torch.autograd.Function):
    """The ReLU of Deconvolution: the gradient passes where it is positive (Zeiler and Fergus 2014)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004, D102
        return x.relu()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: ARG004, D102
        return grads[0].relu()


FUNCTIONAL_RELU: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        **dict.fromkeys(("GuidedBackprop", "NeuronGuidedBackprop", "GuidedGradCam"), Guided.apply),
        **dict.fromkeys(("Deconvolution", "NeuronDeconvolution"), Deconvolved.apply),
    }
)


class replaced_relu(TorchFunctionMode):  # noqa: N801  (used as a context manager)
    """While active, ReLUs run another function.

    Args:
        relu: takes the place of ReLU.
    """

    def __init__(self, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.relu = relu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor):
            return func(*args, **kwargs)
        if func in IN_PLACE or (func is F.relu and (kwargs.get("inplace") or args[1:2] == (True,))):
            return x.copy_(self.relu(x.clone()))
        if func in PLAIN or (func in CLAMPS and _is_relu(args[1:], kwargs)):
            return self.relu(x)
        return func(*args, **kwargs)


def _is_relu(bounds: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a clamp has the lower bound 0 and no upper one."""
    low = bounds[0] if bounds else kwargs.get("min")
    high = bounds[1] if len(bounds) > 1 else kwargs.get("max")
    return high is None and isinstance(low, (int, float)) and low == 0

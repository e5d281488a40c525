"""ReLUs that a model calls as functions, with the backward pass of GuidedBackprop or Deconvolution.

Captum only changes the backward pass of ReLU modules. Without this file, a functional ReLU would pass the plain
gradient. A ReLU that no mode can see, in TorchScript or a recurrent kernel, is found in autograd's graph and refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from xaikit.core.errors import UnsupportedOperationError
from xaikit.core.graphs import steps_between
from xaikit.core.torch_private import tree_iter
from xaikit.torch_ops import computed, operation_name

CLAMPS = frozenset({"clamp", "clamp_min"})
HIDDEN = ("ReluBackward0", "DifferentiableGraphBackward")  # of a ReLU, of what TorchScript has compiled


class Guided(torch.autograd.Function):
    """The ReLU of GuidedBackprop: the gradient passes where it and x are positive (Springenberg et al. 2015)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # noqa: D102
        return x.relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004, D102
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # noqa: D102
        return grads[0].relu() * (ctx.saved_tensors[0] > 0)


class Deconvolved(torch.autograd.Function):
    """The ReLU of Deconvolution: the gradient passes where it is positive (Zeiler and Fergus 2014)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:  # noqa: D102
        return x.relu()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: D102
        pass

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
        x = args[0] if args else kwargs.get("input", kwargs.get("self"))
        name = operation_name(func) if isinstance(x, Tensor) else ""
        if name != "relu" and name not in CLAMPS:
            return func(*args, **kwargs)
        _, args_, kwargs_, in_place = computed(func, args, kwargs)
        if kwargs.get("out") is not None or (name in CLAMPS and not _is_relu(args_[1:], kwargs_)):
            return func(*args, **kwargs)
        return x.copy_(self.relu(x.clone())) if in_place else self.relu(x)


def refuse_hidden_relus(inputs: Iterable[Tensor], output: Any, method: str) -> None:
    """Refuse a result whose ReLUs were not all replaced.

    Args:
        inputs: what the model got.
        output: what the model returned inside `replaced_relu`, with its graph.
        method: whose ReLUs they are.

    Raises:
        UnsupportedOperationError: naming the two ways out.
    """
    tensors = [t for t in tree_iter(output) if isinstance(t, Tensor)]
    if any(node.name().rpartition("::")[2] in HIDDEN for node in steps_between(inputs, tensors)):
        raise UnsupportedOperationError(
            f"{method} changes how every ReLU is differentiated, and cannot reach those inside TorchScript code or a "
            "recurrent kernel, which this model has; pass the model as it was before torch.jit.script or "
            "torch.jit.trace, or use gradient or integrated_gradients"
        )


def _is_relu(bounds: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a clamp has the lower bound 0 and no upper one."""
    low = bounds[0] if bounds else kwargs.get("min")
    high = bounds[1] if len(bounds) > 1 else kwargs.get("max")
    return high is None and isinstance(low, (int, float)) and low == 0

"""FullGrad: the gradient times the input, and the gradient times every bias, as one map."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaikit.core import EXPLAINERS, Call, Categorical, Explainer, torch_private
from xaikit.core.errors import InvalidInputError, UnsupportedOperationError
from xaikit.core.frozen_norms import frozen_norms
from xaikit.core.graphs import depends_on
from xaikit.core.layers import hooked
from xaikit.core.structure import Tensors
from xaikit.explainers.cam.base import check_channels_first, resized
from xaikit.explainers.cam.layers import CONVOLUTION
from xaikit.torch_ops import by_name, calling_module, innermost_module, operation_name

WITH_BIAS = (CONVOLUTION, torch_private.RunningNorm)
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
FUNCTIONS = (*CONVOLUTIONS, "batch_norm")
NORM_ARGUMENTS = ("running_mean", "running_var", "weight", "bias", "eps")


@EXPLAINERS.register("fullgrad")
class FullGrad(Explainer):
    """psi(x * dS/dx) + sum over layers l of psi(b_l * dS/dA_l) (Srinivas and Fleuret 2019, arXiv:1905.00780).

    psi takes the size, scales each channel of a sample to [0, 1], resizes it to the input and sums over channels. A_l
    are the outputs of every convolution and BatchNorm with a bias that ran on the input, as a module or as a function,
    b_l its bias; that of a BatchNorm is beta - gamma mean / sqrt(variance + eps), or beta where it takes the statistics
    of the batch. Every channel of the input gets the same map. Biases of other layers (LayerNorm, the linear layers of
    a transformer) have no place in it, so it is meant for convolutional nets.
    """

    SUPPORTED_MODULES = (CONVOLUTION,)
    MADE_FOR = ("convolution",)
    SHARES_TASK_FORWARD = True
    USES_GLOBAL_RANDOM = False

    scale: Annotated[
        str, Categorical("channel", "none", search=False), "psi scales each channel to [0, 1], or leaves it as it is"
    ] = "channel"
    upsample: Annotated[str, Categorical("linear", "nearest", search=False), "how the maps are resized"] = "linear"

    def _attribute(self, call: Call) -> Tensors:
        for x in call.inputs:
            if x.ndim < 3:
                raise InvalidInputError(
                    f"{type(self).__name__} makes a map over positions (N, channels, ...), got {tuple(x.shape)}"
                )
        outputs: list[tuple[str, Tensor, Tensor | None]] = []
        biases: list[Tensor] = []

        def checked(output: Tensor) -> Tensor:
            if torch_private.batch_of(output) is not output:
                raise UnsupportedOperationError(
                    f"{type(self).__name__} does not see through transforms of torch.func such as torch.vmap; let the "
                    "model run its samples in a loop or as a batch, or take gradient_x_input or LRP"
                )
            return output

        def keep(output: Any, *, module: nn.Module) -> Any:
            # What the module does behind its operation, such as the ReLU of timm's BatchNormAct2d, is not the bias's.
            if not isinstance(output, Tensor) or module in functions.modules:
                return None
            outputs.append((f"layer {call.modules[module]!r}", checked(output), _bias(module)))
            return output.clone()  # what follows may work in place

        def points(leaves: Tensors) -> Tensors:
            reached = [(n, o, b) for n, o, b in outputs if b is not None and o.ndim > 2 and depends_on(o, leaves)]
            for name, output, _ in reached:
                if len(output) != call.n:
                    raise InvalidInputError(
                        f"{name} must keep the batch of {call.n} first, it returns "
                        f"{tuple(output.shape)}; let the model run its parts one after the other instead of in one "
                        "batch, or take gradient_x_input or LRP"
                    )
            biases.extend(b for _, _, b in reached)
            return (*leaves, *(o for _, o, _ in reached))

        modules = [m for m in call.model.modules() if isinstance(m, WITH_BIAS)]
        functions = _BiasReader(outputs, call.modules, checked)
        hooks = [(m, functools.partial(keep, module=m)) for m in modules]
        with frozen_norms(call.modules), hooked(hooks), functions:
            gradients = call.grad_of(call.inputs, at=points)
        if not outputs:
            raise InvalidInputError(
                f"{type(self).__name__} reads the biases of convolutions and BatchNorms, and this "
                f"{type(call.model).__name__} runs none that Python sees; use gradient_x_input"
            )
        for x in call.inputs:
            check_channels_first(type(self).__name__, x)
        count = len(call.inputs)
        terms = list(zip(biases, gradients[count:], strict=True))
        return tuple(self._map(x, g, terms) for x, g in zip(call.inputs, gradients[:count], strict=True))

    def _map(self, x: Tensor, gradient: Tensor, terms: list[tuple[Tensor, Tensor]]) -> Tensor:
        heat = self._psi(x * gradient, x)
        for bias, g in terms:
            if g.ndim == x.ndim:
                heat = heat + self._psi(bias.view(-1, *[1] * (g.ndim - 2)) * g, x)
        return heat.expand_as(x).contiguous()

    def _psi(self, product: Tensor, x: Tensor) -> Tensor:
        """The map (N, 1, ...) of a product (N, K, ...)."""
        sizes = product.abs()
        if self.scale == "channel":
            axes = tuple(range(2, sizes.ndim))
            sizes = sizes - sizes.amin(axes, keepdim=True)
            largest = sizes.amax(axes, keepdim=True)
            sizes = sizes / largest.where(largest > 0, 1)
        return resized(sizes, x.shape[2:], self.upsample).sum(1, keepdim=True)


class _BiasReader(TorchFunctionMode):
    """Notes outputs and biases of the convolutions and BatchNorms that a model and its modules call.

    Args:
        outputs: takes a name for messages, the output, and the bias of each.
        names: of the model's modules.
        checked: returns an output, or refuses it.

    Attributes:
        modules: those whose bias was noted.
    """

    def __init__(
        self,
        outputs: list[tuple[str, Tensor, Tensor | None]],
        names: Mapping[nn.Module, str],
        checked: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self._outputs, self._names, self._checked = outputs, names, checked
        self.modules: set[nn.Module] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        output = func(*args, **(kwargs or {}))
        name = operation_name(func)
        if name not in FUNCTIONS or not isinstance(output, Tensor):
            return output
        arguments = by_name(func, args, kwargs or {})
        bias = arguments.get("bias")
        if name == "batch_norm":
            bias = bias if arguments["training"] else _shift(*(arguments[n] for n in NORM_ARGUMENTS))
        module, where = innermost_module(), f"{name} in {calling_module()}"
        if isinstance(module, WITH_BIAS):
            if bias is None and name != "batch_norm":
                return output  # a convolution that adds its bias itself is read when it ends
            self.modules.add(module)
            where = f"layer {self._names.get(module)!r}"
        self._outputs.append((where, self._checked(output), bias))
        return output.clone()


def _bias(module: Any) -> Tensor | None:
    """The constant that a convolution or a BatchNorm adds to each channel; None without one."""
    constant: Tensor | None = module.bias
    if isinstance(module, CONVOLUTION):
        return constant
    if module.training or module.running_mean is None:
        return None if isinstance(module, torch_private.InstanceNorm) else constant
    return _shift(module.running_mean, module.running_var, module.weight, module.bias, module.eps)


def _shift(
    mean: Tensor | None, variance: Tensor | None, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor | None:
    """What a BatchNorm with running statistics adds to each channel."""
    if mean is None or variance is None:
        return None
    scale: Tensor = torch.rsqrt(variance + eps)
    scale = scale if weight is None else scale * weight
    shift = -mean * scale
    return shift if bias is None else shift + bias

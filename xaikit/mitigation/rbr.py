"""Right for better reasons: a penalty on where in the input a sample's influence on the model's weights comes from."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import MITIGATORS, Call, Explainer, Float
from xaikit.core.errors import InvalidInputError
from xaikit.core.layer_gradients import LayerGradients, read_layers
from xaikit.core.layers import LayerPoint, find_point
from xaikit.core.structure import Tensors
from xaikit.core.taps import Tap
from xaikit.core.third_derivatives import refuse_wrong_third_derivative, third_derivatives
from xaikit.explainers.gradient import Gradient
from xaikit.mitigation.masked import MaskedMitigator
from xaikit.mitigation.penalties import at_least_float32

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
LAYERS = (nn.Linear, *CONVOLUTIONS)


def _layer_names(value: Any, where: str) -> Any:
    if value is None:
        return None
    names = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    names = tuple(str(name) if type(name) is int else name for name in names)  # a spec string reads "2" as a number
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"{where} must be names of layers, such as 'fc', got {value!r}")
    return names


@MITIGATORS.register("rbr")
class RBR(MaskedMitigator):
    """Mean cross-entropy + lambda_rbr * sum(mask * (dI/dx)**2), I a sample's influence on itself (Shao et al. 2021).

    With the gradient g = d log p(y|x) / d weights of a sample, I = g' H^-1 g / 2: about how much the sample's loss
    falls when it is learnt. It is the influence function (Koh and Liang 2017, arXiv:1703.04730) of a sample that is its
    own test sample. dI/dx = (dg/dx)' H^-1 g tells which inputs the weights learn from, and the mask says from which
    they must not ("Right for better reasons", AAAI 35(11), pages 9533-9540). H is not differentiated by x. Code of a
    later comparison by the same group takes a vector of ones for H^-1 g, the weights of all layers, and multiplies what
    comes out by the gradient of the score; here dI/dx stands alone, as in the influence function.

    * ``weights``: names of the linear or convolutional layers whose weights count; None for the model's last one.
    * ``damping=None`` takes the identity for H, as that code does. A number takes the Fisher matrix of the batch, the
      mean of g g', plus damping times the identity. It stands in for the Hessian of the training loss, and the penalty
      of a sample then depends on its batch.

    What it costs: one forward pass, a backward pass to the named layers, one to the inputs, and one to all weights
    through these. For the last layer that was 1.0 to 1.5 times a step of `RRR` (ResNet-18, a small net), for a late
    convolution 5 times, since the gradients of all samples are held: N times the weights of the named layers.

    A sure model has g = 0, so nothing is penalised there although the model may rely on the shortcut. On the small
    planted shortcut of the tests (.32 without a penalty, .84 by `RRR`) no weight of the plain penalty went above .68;
    ``damping=0.1`` reached .81 and ``balance=True`` .82. With ``output="logit"`` g is the features before the last
    layer. A model with a single
    output has that output in the place of log p. `explainer` must be the gradient; its ``layer=`` says where x is, for
    models that read tokens.

    >>> import torch
    >>> model = torch.nn.Linear(4, 2)
    >>> x, y, mask = torch.rand(8, 4), torch.tensor([0, 1] * 4), torch.tensor([1.0, 0, 0, 0])
    >>> history = RBR(lambda_rbr=10.0, lr=0.1, n_epochs=20, random_state=0).fit(model, x, y, mask, progress=False)
    >>> history.epochs[-1]["penalty"] < history.epochs[0]["penalty"]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_rbr"
    USES_EXPLAINER: ClassVar[bool] = False  # its own penalty needs none

    lambda_rbr: Annotated[float, Float(low=1e-2, high=1e4, log=True, ge=0), "weight of the penalty"] = 1.0
    weights: Annotated[Any, _layer_names, "layers whose weights count; None for the last"] = None
    damping: Annotated[
        float | None,
        Float(low=1e-3, high=1.0, log=True, gt=0, optional=True),
        "beside the Fisher matrix of the batch, which is inverted; None for the identity",
    ] = None

    def _check_settings(self) -> None:
        super()._check_settings()
        if type(self.explainer) is not Gradient:
            raise InvalidInputError(
                f"RBR penalises the gradient of the influence, so explainer= takes the gradient alone, for its layer=, "
                f"got {self.explainer!r}; use RRR to penalise another explanation"
            )

    def _explainer(self, model: nn.Module) -> Explainer:
        place = self.explainer_for(model)
        settings = {name: getattr(place, name) for name in type(place).SETTINGS}
        return InfluenceGradient(model=model, **settings, weights=self.weights, damping=self.damping)


class InfluenceGradient(Explainer):
    """d/dx of the influence of each sample on itself, g' H^-1 g / 2; see `RBR`."""

    SHARES_TASK_FORWARD: ClassVar[bool] = True
    USES_GLOBAL_RANDOM: ClassVar[bool] = False

    weights: Annotated[Any, _layer_names, "layers whose weights count; None for the last"] = None
    damping: Annotated[float | None, Float(gt=0, optional=True), "beside the Fisher matrix; None: identity"] = None

    def _attribute(self, call: Call) -> Tensors:
        points = _points(call.model, self.weights)
        leaves = tuple(x if call.create_graph and x.requires_grad else x.detach().requires_grad_() for x in call.inputs)
        with third_derivatives(call.create_graph):
            layers = read_layers(
                dataclasses.replace(
                    call,
                    inputs=leaves,
                    read_at=(*points, *(p.at_input() for p in points)),
                    tap=Tap.apply,
                    create_graph=True,
                    sample_major=lambda *_: True,  # layers with several rows for each sample are refused
                )
            )
        if call.create_graph:
            refuse_wrong_third_derivative(gradient for runs in layers.gradients for gradient in runs)
        with torch.enable_grad():
            g = torch.cat([_weight_gradients(layers, point, i, len(points)) for i, point in enumerate(points)], 1)
            # H^-1 g is a constant factor for the derivative by x, but not for the one by the weights.
            factor = g if self.damping is None else damped_inverse(g, self.damping)
            return torch.autograd.grad(
                g, leaves, factor, create_graph=call.create_graph, allow_unused=True, materialize_grads=True
            )


def damped_inverse(g: Tensor, damping: float) -> Tensor:
    """(F + damping I)^-1 g for each row of g (N, weights), with F = g' g / N, by a system of N equations.

    Args:
        g: the gradients of N samples.
        damping: above 0.
    """
    n, wide = len(g), at_least_float32(g)  # torch solves nothing in half precision
    kernel = wide @ wide.T / n + damping * torch.eye(n, dtype=wide.dtype, device=g.device)
    return torch.linalg.solve(kernel, wide).to(g.dtype)


def _points(model: nn.Module, names: Sequence[str] | None) -> list[LayerPoint]:
    if names is None:
        last = [LayerPoint(name, module) for name, module in model.named_modules() if isinstance(module, LAYERS)][-1:]
        if not last:
            raise InvalidInputError("RBR needs a linear or convolutional layer, and the model has none; use RRR")
        return last
    points = [find_point(model, name) for name in names]
    for point in points:
        if point.is_input or not isinstance(point.module, LAYERS):
            raise InvalidInputError(
                f"RBR takes the weights of linear and convolutional layers, got {point.name!r}, a "
                f"{type(point.module).__name__}; name other weights="
            )
    return points


def _weight_gradients(layers: LayerGradients, point: LayerPoint, index: int, count: int) -> Tensor:
    """The gradient of each sample's score by the weights of a layer, (N, weights), added up over the layer's runs."""
    total: Tensor | None = None
    for inputs, gradients in zip(layers.activations[count + index], layers.gradients[index], strict=True):
        if len(gradients) != layers.n or len(inputs) != layers.n:
            raise InvalidInputError(
                f"layer {point.name!r} has {len(gradients)} rows for {layers.n} samples, and RBR needs one for each; "
                "name other weights="
            )
        part = _of_run(point.module, inputs, gradients)
        total = part if total is None else total + part
    assert total is not None  # noqa: S101 - a layer that does not run is refused where it is read
    return total


def _of_run(module: nn.Module, inputs: Tensor, gradients: Tensor) -> Tensor:
    if isinstance(module, nn.Linear):
        a, g = (t.reshape(len(t), -1, t.shape[-1]) for t in (inputs, gradients))
        weight = (g.mT @ a).flatten(1)
        return weight if module.bias is None else torch.cat([weight, g.sum(1)], 1)
    weight = _of_convolution(module, inputs, gradients)
    return weight if module.bias is None else torch.cat([weight, gradients.flatten(2).sum(2)], 1)


def _of_convolution(module: Any, inputs: Tensor, gradients: Tensor) -> Tensor:
    """The gradient of each sample by the kernels: each of their offsets meets a window of the padded input."""
    reach = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding == "same":
        sides = [(r // 2, r - r // 2) for r in reach]
    else:
        sides = [(0, 0)] * len(reach) if module.padding == "valid" else [(p, p) for p in module.padding]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    inputs = F.pad(inputs, [p for pair in reversed(sides) for p in pair], mode=mode)
    groups = module.groups
    g = gradients.unflatten(1, (groups, -1)).flatten(3)
    columns = []
    for offset in itertools.product(*map(range, module.kernel_size)):
        window = inputs
        for axis, (start, size, stride, dilation) in enumerate(
            zip(offset, gradients.shape[2:], module.stride, module.dilation, strict=True), start=2
        ):
            first = start * dilation
            window = window[(slice(None),) * axis + (slice(first, first + (size - 1) * stride + 1, stride),)]
        columns.append(g @ window.unflatten(1, (groups, -1)).flatten(3).mT)
    return torch.stack(columns, -1).flatten(1)

"""Class activation maps: where the channels of a hidden layer that speak for a class are active."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS, Call, Categorical, Explainer, Int, Layer
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.layers import find_layer, hooked
from xaikit.core.structure import Tensors

CONVOLUTION = nn.modules.conv._ConvNd  # noqa: SLF001
MAX_PREFIX = 16  # class, distillation and register tokens that may stand before the patches of a vision transformer


@EXPLAINERS.register("gradcam")
class GradCam(Explainer):
    """relu(sum_k w_k A_k), w_k = mean over positions of dS/dA_k (Selvaraju et al. 2017, arXiv:1610.02391).

    A (N, K, ...) are the activations of `target_layer`. The map is resized to the input and stands in each of its
    channels. Exact inside a loss: the derivative reaches the layers before A and those after it.

    With ``layer=``, as for every explainer, it is that layer's output that is explained: the map of its activations,
    at its own size, in each of its channels.

    The layer's output may be patch tokens (N, T, D), as in a vision transformer: those before the last T' that form a
    grid of the image's proportions (class token, registers) are left out.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 2))
    >>> GradCam(model).attribute(torch.rand(5, 1, 8, 8), 0).shape  # of the second convolution
    torch.Size([5, 1, 8, 8])
    >>> GradCam(model, layer="0").attribute(torch.rand(5, 1, 8, 8), 0).shape
    torch.Size([5, 4, 6, 6])
    """

    SUPPORTED_MODULES = (CONVOLUTION,)
    MADE_FOR = ("convolution",)
    SHARES_TASK_FORWARD = True
    SINGLE_BACKWARD = True
    USES_GLOBAL_RANDOM = False

    target_layer: Annotated[Any, Layer(), "whose activations make the map; None: the last convolution that ran"] = None
    channel_axis: Annotated[
        int | None, Int(optional=True), "of the activations; None: 1, or the last of patch tokens (N, T, D)"
    ] = None
    upsample: Annotated[str, Categorical("linear", "nearest", search=False), "how the map is resized"] = "linear"

    def _check_settings(self) -> None:
        if self.layer is not None and self.target_layer is not None:
            raise InvalidInputError(
                f"{type(self).__name__} takes layer= (a map at that layer's size) or target_layer= (a map of that "
                "layer at the input's size), not both"
            )

    def serialised_settings(self) -> dict[str, Any]:
        """The settings as `spec` writes them: layers that were given as modules are written by their names."""
        settings = super().serialised_settings()
        if isinstance(self.target_layer, nn.Module) and self.model is not None:
            settings["target_layer"] = find_layer(self.model, self.target_layer)[0]
        return settings

    def _attribute(self, call: Call) -> Tensors:
        if self.layer is not None:
            several = self.layer if isinstance(self.layer, tuple) else (self.layer,)
            layers = [find_layer(call.model, item) for item in several]
            found = zip(layers, *call.grad_at_layers(), strict=True)
            return tuple(self._at_layer(layer, a, g) for layer, a, g in found)
        if len(call.inputs) > 1:
            raise InvalidInputError(
                f"{type(self).__name__} makes a map over one input, got {len(call.inputs)}; pick one with "
                "forward_arg_extractor, or explain a layer with layer="
            )
        (x,) = call.inputs
        if x.ndim < 3:
            raise InvalidInputError(
                f"{type(self).__name__} makes a map over positions (N, channels, ...), "
                f"got inputs of shape {tuple(x.shape)}"
            )
        with _recorded(call.model, self.target_layer) as seen:
            (gradient,) = call.grad_of(call.inputs, at=lambda: (seen.latest(x),))
        activation = seen.latest(x)
        axis = self._axis(seen.name, seen.module, activation, x.ndim)
        a, g = (t.movedim(axis, 1) for t in (activation, gradient))
        if a.ndim < x.ndim:
            a, g = (_patches(t, x, seen.name) for t in (a, g))
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2] if self.upsample == "linear" else "nearest"
        return (F.interpolate(self._map(a, g), x.shape[2:], mode=mode).expand_as(x).contiguous(),)

    def _at_layer(self, layer: tuple[str, nn.Module], activation: Tensor, gradient: Tensor) -> Tensor:
        axis = self._axis(*layer, activation)
        found = self._map(activation.movedim(axis, 1), gradient.movedim(axis, 1))
        return found.movedim(1, axis).expand_as(activation).contiguous()

    def _map(self, a: Tensor, g: Tensor) -> Tensor:
        """The map (N, 1, ...) of activations and gradients (N, K, ...)."""
        return (self._weights(a, g) * a).sum(1, keepdim=True).relu()

    def _weights(self, a: Tensor, g: Tensor) -> Tensor:  # noqa: ARG002
        """The weight of each channel, (N, K, 1, ...)."""
        return g.mean(tuple(range(2, g.ndim)), keepdim=True)

    def _axis(self, name: str, module: nn.Module, a: Tensor, input_axes: int | None = None) -> int:
        """Where the activations have their channels."""
        shape = tuple(a.shape)
        if a.ndim < 3:
            raise InvalidInputError(
                f"layer {name!r} returns {shape}, which has no positions; "
                f"{type(self).__name__} needs (N, channels, ...) or tokens (N, T, D)"
            )
        if input_axes is not None and a.ndim != input_axes and not (a.ndim == 3 and input_axes == 4):
            raise InvalidInputError(
                f"a map of layer {name!r}, which returns {shape}, cannot be laid over inputs of {input_axes} axes"
            )
        if self.channel_axis is not None:
            axis = self.channel_axis % a.ndim if -a.ndim <= self.channel_axis < a.ndim else 0
            if axis == 0:
                raise InvalidInputError(
                    f"channel_axis must name an axis of {shape} after the first, got {self.channel_axis}"
                )
            return axis
        if a.ndim == 3 and not isinstance(module, CONVOLUTION):
            if input_axes == 4:
                return 2
            raise InvalidInputError(
                f"layer {name!r} returns {shape}: say where its channels are, with channel_axis=1 for (N, channels, "
                "length) or channel_axis=2 for (N, tokens, channels)"
            )
        return 1


@EXPLAINERS.register("gradcam_plus_plus")
class GradCamPlusPlus(GradCam):
    """GradCam with w_k = sum over positions of alpha_k relu(dS/dA_k) (Chattopadhay et al. 2018, arXiv:1710.11063).

    The paper's alpha_k = g² / (2 g² + g³ sum A_k), with g = dS/dA_k at each position, is for the score exp(S), whose
    factor exp(S) in front of the whole map is left out. It supposes activations that are not negative, so the sum
    takes relu(A_k); with g divided out, alpha_k = 1 / (2 + g sum relu(A_k)), which has no pole where relu(g) > 0.
    """

    def _weights(self, a: Tensor, g: Tensor) -> Tensor:
        positions = tuple(range(2, g.ndim))
        rising = g.relu()
        return (rising / (2 + rising * a.relu().sum(positions, keepdim=True))).sum(positions, keepdim=True)


class _Recorder:
    """The latest output of the hooked layers."""

    def __init__(self, asked: str | None) -> None:
        self.asked, self.runs = asked, 0
        self.name, self.module = asked or "", nn.Module()
        self.output: Tensor | None = None

    def keep(self, output: Any, *, name: str, module: nn.Module) -> Any:
        """Keep the output of that layer, when it is one that can make a map."""
        if not isinstance(output, Tensor):
            if self.asked is None:
                return None
            raise InvalidTypeError(
                f"layer {name!r} must return a tensor to make a map of, it returns a {type(output).__name__}"
            )
        if self.asked is None and math.prod(output.shape[2:]) == 1:
            return None  # a convolution of one position (squeeze and excite, a head after pooling) has no map
        self.name, self.module, self.output = name, module, output
        self.runs += 1
        return output.clone()  # what follows may work in place, and would change what is kept here

    def latest(self, x: Tensor) -> Tensor:
        """The output, checked."""
        if self.output is None:
            what = "the model ran no convolution" if self.asked is None else f"layer {self.asked!r} did not run"
            remedy = "name the layer whose activations make the map with target_layer="
            raise InvalidInputError(f"{what} on inputs of shape {tuple(x.shape)}; {remedy}")
        if self.asked is not None and self.runs > 1:
            raise InvalidInputError(f"layer {self.name!r} must run once in a forward pass, it ran {self.runs} times")
        if len(self.output) != len(x):
            raise InvalidInputError(
                f"layer {self.name!r} must keep the batch of {len(x)} first, it returns {tuple(self.output.shape)}"
            )
        return self.output


@contextlib.contextmanager
def _recorded(model: nn.Module, target_layer: Any) -> Iterator[_Recorder]:
    """Keep the output of the target layer, or of the convolution that runs last."""
    layers: Sequence[tuple[str, nn.Module]]
    if target_layer is None:
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, CONVOLUTION)]
        seen = _Recorder(None)
    else:
        layers = [find_layer(model, target_layer)]
        seen = _Recorder(layers[0][0])
    with hooked([(module, functools.partial(seen.keep, name=name, module=module)) for name, module in layers]):
        yield seen


def _patches(tokens: Tensor, x: Tensor, name: str) -> Tensor:
    """The patch tokens of (N, D, T) as a grid (N, D, h, w) with the proportions of the images (N, C, H, W)."""
    height, width = x.shape[2:]
    count = tokens.shape[2]
    for prefix in range(min(MAX_PREFIX + 1, count)):
        rows = math.isqrt(round((count - prefix) * height / width))
        if rows and (count - prefix) % rows == 0 and rows * width == (count - prefix) // rows * height:
            return tokens[:, :, prefix:].unflatten(2, (rows, -1))
    raise InvalidInputError(
        f"the {count} tokens of layer {name!r} form no grid over images of {height} x {width} pixels; "
        "explain the layer itself with layer="
    )

"""Class activation maps: where the channels of a hidden layer that contribute to a class are active."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS, Call, Categorical, Explainer, Int, Layer
from xaikit.core.errors import InvalidInputError
from xaikit.core.layers import find_layer
from xaikit.core.structure import Tensors
from xaikit.explainers.cam_layers import CONVOLUTION, channel_axis, patches, recorded


@EXPLAINERS.register("gradcam")
class GradCam(Explainer):
    """relu(sum_k w_k A_k), w_k = mean over positions of dS/dA_k (Selvaraju et al. 2017, arXiv:1610.02391).

    A (N, K, ...) are the activations of `target_layer`. The map is resized to the input, and every channel of the input
    gets the same map. The derivative in a loss is exact: it reaches the layers before A and those after it.

    With ``layer=``, as for every explainer, that layer's output is explained: the map of its activations, at its own
    size, the same in each of its channels.

    The layer's output may be patch tokens (N, T, D), as in a vision transformer. The last tokens that form a grid of
    the image's proportions are taken; those before them (class token, registers) are left out. The output may have its
    channels last, (N, H, W, C), as in Swin and ConvNeXt. For several target layers the result is the mean of their
    maps. If a layer runs on several inputs (a siamese net), the run on the explained input is taken.

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

    target_layer: Annotated[
        Any,
        Layer(several=True),
        "whose activations make the map, one or several; None: the last convolution that ran on the input",
    ] = None
    channel_axis: Annotated[
        int | None, Int(optional=True), "of the activations; None: by the layer's kind and the image's proportions"
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
        if self.target_layer is not None and self.model is not None:
            several = isinstance(self.target_layer, tuple)
            items = self.target_layer if several else (self.target_layer,)
            names = [item if isinstance(item, str) else find_layer(self.model, item)[0] for item in items]
            settings["target_layer"] = names if several else names[0]
        return settings

    def _attribute(self, call: Call) -> Tensors:
        if self.layer is not None:
            several = self.layer if isinstance(self.layer, tuple) else (self.layer,)
            layers = [find_layer(call.model, item) for item in several]
            pairs = zip(layers, *call.grad_at_layers(), strict=True)
            return tuple(self._at_layer(layer, a, g, call.own_inputs[0]) for layer, a, g in pairs)
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
        chosen: list[tuple[str, nn.Module, Tensor]] = []

        def activations(leaves: Tensors) -> Tensors:
            chosen.extend(recorder.chosen(leaves))
            return tuple(output for _, _, output in chosen)

        with recorded(call.model, self.target_layer) as recorder:
            gradients = call.grad_of(call.inputs, at=activations)
        maps = [self._over_input(name, m, a, g, x) for (name, m, a), g in zip(chosen, gradients, strict=True)]
        return ((maps[0] if len(maps) == 1 else torch.stack(maps).mean(0)).expand_as(x).contiguous(),)

    def _over_input(self, name: str, module: nn.Module, activation: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
        """The map of one layer at the size of the input, (N, 1, ...)."""
        axis = self._axis(name, module, activation, x)
        if activation.ndim != x.ndim and not (activation.ndim == 3 and x.ndim == 4):
            raise InvalidInputError(
                f"a map of layer {name!r}, which returns {tuple(activation.shape)}, cannot be laid over inputs of "
                f"{x.ndim} axes"
            )
        a, g = (t.movedim(axis, 1) for t in (activation, gradient))
        if a.ndim < x.ndim:
            a, g = (patches(t, x, name) for t in (a, g))
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[x.ndim - 2] if self.upsample == "linear" else "nearest"
        return F.interpolate(self._map(a, g), x.shape[2:], mode=mode)

    def _at_layer(self, layer: tuple[str, nn.Module], activation: Tensor, gradient: Tensor, x: Tensor) -> Tensor:
        axis = self._axis(*layer, activation, x if x.ndim == activation.ndim else None)
        heat = self._map(activation.movedim(axis, 1), gradient.movedim(axis, 1))
        return heat.movedim(1, axis).expand_as(activation).contiguous()

    def _map(self, a: Tensor, g: Tensor) -> Tensor:
        """The map (N, 1, ...) of activations and gradients (N, K, ...)."""
        return (self._weights(a, g) * a).sum(1, keepdim=True).relu()

    def _weights(self, a: Tensor, g: Tensor) -> Tensor:  # noqa: ARG002
        """The weight of each channel, (N, K, 1, ...)."""
        return g.mean(tuple(range(2, g.ndim)), keepdim=True)

    def _axis(self, name: str, module: nn.Module, a: Tensor, image: Tensor | None) -> int:
        """The axis of the channels in the activations."""
        if a.ndim < 3:
            raise InvalidInputError(
                f"layer {name!r} returns {tuple(a.shape)}, which has no positions; "
                f"{type(self).__name__} needs (N, channels, ...) or tokens (N, T, D)"
            )
        if self.channel_axis is None:
            return channel_axis(name, module, a, image)
        axis = self.channel_axis % a.ndim if -a.ndim <= self.channel_axis < a.ndim else 0
        if axis == 0:
            raise InvalidInputError(
                f"channel_axis must name an axis of {tuple(a.shape)} after the first, got {self.channel_axis}"
            )
        return axis


@EXPLAINERS.register("gradcam_plus_plus")
class GradCamPlusPlus(GradCam):
    """GradCam with w_k = sum over positions of alpha_k relu(dS/dA_k) (Chattopadhay et al. 2018, arXiv:1710.11063).

    The paper's alpha_k = g² / (2 g² + g³ sum A_k), with g = dS/dA_k at each position, is for the score exp(S). We leave
    out the factor exp(S) in front of the whole map. The paper assumes activations that are not negative, so our sum
    takes relu(A_k). Divided by g², alpha_k = 1 / (2 + g sum relu(A_k)), which has no pole where relu(g) > 0.
    """

    def _weights(self, a: Tensor, g: Tensor) -> Tensor:
        positions = tuple(range(2, g.ndim))
        rising = g.relu()
        return (rising / (2 + rising * a.relu().sum(positions, keepdim=True))).sum(positions, keepdim=True)

"""What every class activation map has: the layer, its channels, the joined map, and how it is laid over the input."""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import Call, Categorical, Explainer, Int, Layer
from xaikit.core.channel_axes import default_axis
from xaikit.core.errors import InvalidInputError
from xaikit.core.layers import find_layer
from xaikit.core.structure import Tensors
from xaikit.explainers.cam.layers import CONVOLUTION, channel_axis, patches
from xaikit.explainers.cam.projection import first_component

BRIGHTNESS = (0.9, 1.0, 1.1)  # of the augmented copies, each also flipped


class Reading(NamedTuple):
    """What a map of one layer is made of.

    Attributes:
        name: of the layer.
        module: the layer.
        activation: what it returned, (N, ...).
        signals: tensors of its shape that weight it, such as the derivative of the score.
    """

    name: str
    module: nn.Module
    activation: Tensor
    signals: Tensors


class ActivationMap(Explainer, abc.ABC):
    """Base of the class activation maps: contributions c (N, K, ...) of K channels at each position, joined to a map.

    A subclass writes `_read`, which says what is weighted and by what, and `_contributions`.
    """

    SUPPORTED_MODULES = (CONVOLUTION,)
    MADE_FOR = ("convolution",)
    USES_GLOBAL_RANDOM = False

    target_layer: Annotated[
        Any,
        Layer(several=True),
        "whose activations make the map, one or several; None: the last convolution that ran on the input, or in a "
        "vision transformer the last norm whose patches the score depends on",
    ] = None
    channel_axis: Annotated[
        int | None, Int(optional=True), "of the activations; None: by the layer's kind and the image's proportions"
    ] = None
    upsample: Annotated[str, Categorical("linear", "nearest", search=False), "how the map is resized"] = "linear"
    channels: Annotated[
        str,
        Categorical("sum", "eigen", search=False),
        "how the channels are joined: their sum, or their first principal component over the positions",
    ] = "sum"
    relu: Annotated[bool, Categorical(True, False, search=False), "cut the map off at 0"] = True
    augment: Annotated[
        bool,
        Categorical(False, True, search=False),
        "mean map of six copies: the input and its mirror image, each at 0.9, 1 and 1.1 times its values",
    ] = False

    def _check_settings(self) -> None:
        if self.layer is not None and self.target_layer is not None:
            raise InvalidInputError(
                f"{type(self).__name__} takes layer= (a map at that layer's size) or target_layer= (a map of that "
                "layer at the input's size), not both"
            )
        if self.layer is not None and self.augment:
            raise InvalidInputError(
                f"{type(self).__name__}.augment changes the input, so it needs target_layer= (a map at the input's "
                "size), not layer="
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

    def _shares_forward(self, keep_mode: bool) -> bool:
        return super()._shares_forward(keep_mode) and not self.augment

    # ------------------------------------------------------------------ what a method writes

    @abc.abstractmethod
    def _read(self, call: Call) -> list[Reading]:
        """What the map of each target layer is made of."""

    @abc.abstractmethod
    def _at_explained_layers(self, call: Call) -> Tensors:
        """The maps of the layers in `layer`, each shaped like its layer's output."""

    @abc.abstractmethod
    def _contributions(self, a: Tensor, *signals: Tensor) -> Tensor:
        """The contributions of the channels, from activations and signals (N, K, ...)."""

    # ------------------------------------------------------------------ what all share

    def _attribute(self, call: Call) -> Tensors:
        if self.layer is not None:
            return self._at_explained_layers(call)
        x = self._image(call)
        heat = self._mean_of_copies(call, x) if self.augment else self._over_input(call)
        return (heat.expand_as(x).contiguous(),)

    def _image(self, call: Call) -> Tensor:
        """The one input over which a map can lie."""
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
        check_channels_first(type(self).__name__, x)
        return x

    def _mean_of_copies(self, call: Call, x: Tensor) -> Tensor:
        plain = dataclasses.replace(call, on_output=None, passes_kept=None)
        maps = []
        for mirrored in (False, True):
            for factor in BRIGHTNESS:
                copy = factor * (x.flip(-1) if mirrored else x)
                heat = self._over_input(dataclasses.replace(plain, inputs=(copy,)))
                maps.append(heat.flip(-1) if mirrored else heat)
        return torch.stack(maps).mean(0)

    def _over_input(self, call: Call) -> Tensor:
        """The map at the size of the input, (N, 1, ...): the mean over the target layers."""
        (x,) = call.inputs
        maps = [self._laid_over(reading, x) for reading in self._read(call)]
        return maps[0] if len(maps) == 1 else torch.stack(maps).mean(0)

    def _laid_over(self, reading: Reading, x: Tensor) -> Tensor:
        name, _, activation, _ = reading
        axis = self._axis(reading, x)
        if activation.ndim != x.ndim and not (activation.ndim == 3 and x.ndim == 4):
            raise InvalidInputError(
                f"a map of layer {name!r}, which returns {tuple(activation.shape)}, cannot be laid over inputs of "
                f"{x.ndim} axes"
            )
        tensors = (t.movedim(axis, 1) for t in (activation, *reading.signals))
        if activation.ndim < x.ndim:
            tensors = (patches(t, x, name) for t in tensors)
        return resized(self._joined(self._contributions(*tensors)), x.shape[2:], self.upsample)

    def _at_layer(self, reading: Reading, x: Tensor) -> Tensor:
        """The map of a layer at its own size, the same in each channel."""
        axis = self._axis(reading, x if x.ndim == reading.activation.ndim else None)
        heat = self._joined(self._contributions(*(t.movedim(axis, 1) for t in (reading.activation, *reading.signals))))
        return heat.movedim(1, axis).expand_as(reading.activation).contiguous()

    def _joined(self, contributions: Tensor) -> Tensor:
        """The map (N, 1, ...) of contributions (N, K, ...)."""
        heat = contributions.sum(1, keepdim=True) if self.channels == "sum" else first_component(contributions)
        return heat.relu() if self.relu else heat

    def _axis(self, reading: Reading, image: Tensor | None) -> int:
        """The axis of the channels in the activations."""
        name, module, a, _ = reading
        if a.ndim < 3:
            raise InvalidInputError(
                f"layer {name!r} returns {tuple(a.shape)}, which has no positions; "
                f"{type(self).__name__} needs (N, channels, ...) or tokens (N, T, D)"
            )
        if self.channel_axis is None:
            first = image if image is None or image.ndim < 3 else image.movedim(default_axis(image), 1)
            return channel_axis(name, module, a, first)
        axis = self.channel_axis % a.ndim if -a.ndim <= self.channel_axis < a.ndim else 0
        if axis == 0:
            raise InvalidInputError(
                f"channel_axis must name an axis of {tuple(a.shape)} after the first, got {self.channel_axis}"
            )
        return axis


def check_channels_first(method: str, x: Tensor) -> None:
    """Refuse an input whose channels are last: a map would lie over its channels.

    Args:
        method: its name, for messages.
        x: the input.

    Raises:
        InvalidInputError: for such an input.
    """
    if x.ndim > 2 and default_axis(x) != 1:
        raise InvalidInputError(
            f"{method} lays its map over (N, channels, ...), and inputs of shape {tuple(x.shape)} have their channels "
            "last; wrap the model, so that it gets channels first and runs on inputs.movedim(1, -1), or explain a "
            "layer with layer="
        )


def read_cut(call: Call, method: str) -> list[Reading]:
    """The activations of the layers at which a call is cut, without signals.

    Args:
        call: cut at layers.
        method: its name, for messages.

    Raises:
        InvalidInputError: for a layer that runs several times in a pass.
    """
    for point, runs in zip(call.layers, call.runs, strict=True):
        if runs > 1:
            raise InvalidInputError(
                f"{method} needs a layer that runs once, layer {point.name!r} runs {runs} times; name one that does"
            )
    return [Reading(point.name, point.module, a, ()) for point, a in zip(call.layers, call.inputs, strict=True)]


def resized(maps: Tensor, size: torch.Size, upsample: str) -> Tensor:
    """Maps (N, K, ...) at another size.

    Args:
        maps: with one, two or three axes of positions.
        size: of these axes.
        upsample: "linear" or "nearest".
    """
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    return F.interpolate(maps, size, mode=linear if upsample == "linear" else "nearest")

"""The activations for class activation maps: choosing the layer, its run, and the axis of its channels."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.graphs import depends_on
from xaikit.core.layers import LayerPoint, find_point, hooked
from xaikit.core.structure import Tensors
from xaikit.explainers.layer_channels import (
    ADAPTED,
    CONVOLUTION,
    adapted,
    axis_by_form,
    distortion,
    unknown_axis,
)

TOKEN_NORMS = (nn.LayerNorm, nn.RMSNorm)
MAX_NORMS = 8  # the last ones of a vision transformer that are looked at
MAX_DISTORTION = 1.5  # of a map of positions against the image
MAX_PREFIX = 16  # class, distillation and register tokens that may stand before the patches of a vision transformer


class Recorder:
    """The outputs of the hooked layers, run by run.

    Args:
        layers: where to look.
        by_name: whether the user named them; else they are all convolutions and norms, and the layers that may make
            a map are chosen.
    """

    def __init__(self, layers: Sequence[LayerPoint], *, by_name: bool) -> None:
        self.layers, self.named = layers, by_name
        self.runs: list[list[Tensor]] = [[] for _ in layers]
        self.order: list[tuple[int, Tensor]] = []

    def keep(self, output: Any, *, index: int) -> Any:
        """Keep an output, when it is one that can make a map."""
        name = self.layers[index].name
        if not isinstance(output, Tensor):
            if not self.named:
                return None
            raise InvalidTypeError(
                f"layer {name!r} must return a tensor to make a map of, it returns a {type(output).__name__}"
            )
        if not self.named and (output.ndim < 3 or math.prod(output.shape[2:]) == 1):
            return None  # a convolution of one position (squeeze and excite, a head after pooling) has no map
        self.runs[index].append(output)
        self.order.append((index, output))
        return output.clone()  # what follows may work in place, and would change what is kept here

    def chosen(self, inputs: Tensors, result: Any = None) -> list[tuple[str, nn.Module, Tensor]]:
        """Name, module and output of each layer: of the run that depends on the inputs.

        Where no layer is named, the first is the last convolution. If that one cuts an image into patches, the norms
        that ran after it follow, the last at the end; see `reached`.

        Args:
            inputs: what is explained.
            result: what the model returned. The layer that is chosen must lead to it, which that of an auxiliary head
                does not; None asks for nothing.

        Raises:
            InvalidInputError: when a layer did not run, ran several times on the inputs, or dropped the batch.
        """
        if self.named:
            picked = [(i, self._only_run(i, inputs)) for i in range(len(self.layers))]
        else:
            picked = self._default(inputs, result)
        for index, output in picked:
            if len(output) != len(inputs[0]):
                raise InvalidInputError(
                    f"layer {self.layers[index][0]!r} must keep the batch of {len(inputs[0])} first, it returns "
                    f"{tuple(output.shape)}; name one that does with target_layer=, let the model run its parts one "
                    f"after the other instead of in one batch, or take gradient_x_input or LRP at layer="
                )
        return [(self.layers[index].name, self.layers[index].module, output) for index, output in picked]

    def _default(self, inputs: Tensors, result: Any) -> list[tuple[int, Tensor]]:
        """The last convolution that depends on the inputs, and the norms of patches after it.

        A convolution over fewer axes than the input has, such as one over the channels (ECA), has no map; it is taken
        only where the model has no other.
        """
        after: list[tuple[int, Tensor]] = []
        axes = inputs[0].ndim - 2
        have_axes = any(_axes_of(self.layers[index].module) == axes for index, _ in self.order)
        for index, output in reversed(self.order):
            module = self.layers[index].module
            if isinstance(adapted(module), CONVOLUTION):
                leads_on = not (isinstance(result, Tensor) and result.requires_grad) or depends_on(result, [output])
                if leads_on and depends_on(output, inputs) and (_axes_of(module) == axes or not have_axes):
                    patches_after = [(i, o) for i, o in reversed(after) if depends_on(o, inputs)]
                    return [(index, output), *(patches_after if cuts_patches(module) else [])]
            elif len(after) < MAX_NORMS and len(output) == len(inputs[0]) and _is_map(output, inputs[0]):
                after.append((index, output))
        raise InvalidInputError(
            f"the model ran no convolution on inputs of shape {tuple(inputs[0].shape)}; name the layer whose "
            "activations make the map with target_layer="
        )

    def _only_run(self, index: int, inputs: Tensors) -> Tensor:
        name, runs = self.layers[index][0], self.runs[index]
        if not runs:
            raise InvalidInputError(
                f"layer {name!r} did not run on inputs of shape {tuple(inputs[0].shape)}; name the layer whose "
                "activations make the map with target_layer="
            )
        reached = [output for output in runs if depends_on(output, inputs)]
        if len(reached) > 1:
            raise InvalidInputError(
                f"layer {name!r} must run once on the explained input, it ran {len(reached)} times; name one that does"
            )
        if not reached:
            raise InvalidInputError(f"layer {name!r} does not depend on the explained input")
        return reached[0]


@contextlib.contextmanager
def recorded(model: nn.Module, target_layer: Any) -> Iterator[Recorder]:
    """Keep the outputs of the target layer or layers, or of every convolution and norm where none is named."""
    if target_layer is None:
        layers = map_layers(model, (CONVOLUTION, *TOKEN_NORMS))
    else:
        several = target_layer if isinstance(target_layer, tuple) else (target_layer,)
        layers = [find_point(model, layer) for layer in several]
    recorder = Recorder(layers, by_name=target_layer is not None)
    with hooked([(point, functools.partial(recorder.keep, index=i)) for i, point in enumerate(layers)]):
        yield recorder


def map_layers(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[LayerPoint]:
    """The layers of some kinds, whole ones: of an adapted layer not what the adapter is made of.

    Args:
        model: any.
        kinds: classes of modules.
    """
    modules = dict(model.named_modules())
    inner = tuple(f"{name}." for name, m in modules.items() if isinstance(getattr(m, ADAPTED, None), CONVOLUTION))
    inside = {name for name in modules if name.startswith(inner)}
    return [LayerPoint(name, m) for name, m in modules.items() if name not in inside and isinstance(adapted(m), kinds)]


def _axes_of(module: nn.Module) -> int:
    """Over how many axes a convolution runs; 0 for another module."""
    module = adapted(module)
    return len(getattr(module, "kernel_size", ())) if isinstance(module, CONVOLUTION) else 0


def cuts_patches(module: nn.Module) -> bool:
    """Whether a convolution cuts an image into patches that do not overlap, as a vision transformer begins."""
    module = adapted(module)
    kernel, stride = getattr(module, "kernel_size", ()), getattr(module, "stride", ())
    return kernel == stride and len(kernel) == 2 and min(kernel) > 1


def _is_map(output: Tensor, image: Tensor) -> bool:
    """Whether a norm's output holds positions of an image: (N, H, W, C), or tokens (N, T, D) that form a grid."""
    if image.ndim != 4:
        return False
    if output.ndim == 4:
        return distortion(output.shape[1:-1], image.shape[2:]) < MAX_DISTORTION
    return output.ndim == 3 and _prefix(output.shape[1], image) is not None


def reached(gradients: Sequence[Tensor], image: Tensor) -> int:
    """Which of the layers that `Recorder.chosen` gives makes the map, where none was named.

    The last norm at whose patches the score changes: after the last attention only the class token may count. Without
    such a norm it is the convolution, the first.

    Args:
        gradients: d score / d output of each layer.
        image: the explained input (N, C, H, W).
    """
    for index in range(len(gradients) - 1, 0, -1):
        g = gradients[index]
        if g.ndim == 3:
            g = g[:, _prefix(g.shape[1], image) :]
        if bool(g.any()):
            return index
    return 0


def channel_axis(name: str, module: nn.Module, a: Tensor, image: Tensor | None) -> int:
    """The axis of the channels in a layer's activations, by the kind of the layer or else by the image's proportions.

    Args:
        name: of the layer.
        module: the layer.
        a: its activations (N, ...).
        image: the input (N, channels, ...) over which the map is laid, if there is one.

    Raises:
        InvalidInputError: if neither decides.
    """
    axis = axis_by_form(module, a, image)
    if axis is None:
        raise unknown_axis(name, a)
    return axis


def patches(tokens: Tensor, x: Tensor, name: str) -> Tensor:
    """The patch tokens of (N, D, T) as a grid (N, D, h, w) with the proportions of the images (N, C, H, W).

    Raises:
        InvalidInputError: when the tokens form no such grid.
    """
    height, width = x.shape[2:]
    count = tokens.shape[2]
    prefix = _prefix(count, x)
    if prefix is None:
        raise InvalidInputError(
            f"the {count} tokens of layer {name!r} form no grid over images of {height} x {width} pixels; name another "
            "layer with target_layer="
        )
    return tokens[:, :, prefix:].unflatten(2, (_rows(count - prefix, x), -1))


def _prefix(count: int, image: Tensor) -> int | None:
    """How many of the tokens stand before those that form a grid of the image's proportions; None if none do."""
    height, width = image.shape[2:]
    for prefix in range(min(MAX_PREFIX + 1, count)):
        rows = _rows(count - prefix, image)
        if rows and (count - prefix) % rows == 0 and rows * width == (count - prefix) // rows * height:
            return prefix
    return None


def _rows(count: int, image: Tensor) -> int:
    height, width = image.shape[2:]
    return math.isqrt(round(count * height / width))

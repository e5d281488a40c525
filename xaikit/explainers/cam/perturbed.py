"""Class activation maps that weight channels by what the score does when they alone are kept, or are taken away."""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit.core import EXPLAINERS, Call, Int
from xaikit.core.opening import at_layers
from xaikit.core.structure import Tensors
from xaikit.explainers.cam.base import ActivationMap, Reading, read_cut, resized
from xaikit.explainers.cam.gradients import read_gradients
from xaikit.explainers.cam.layers import patches
from xaikit.explainers.copy_scores import scores_of_copies


class ChannelMap(ActivationMap, abc.ABC):
    """Base of the maps whose channels get their weights by passes of the model, one pass for each channel."""

    PASSES = (512,)  # as many as the layer has channels; 512 for the last ones of a ResNet

    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most rows in one forward pass; None chooses"] = None

    @abc.abstractmethod
    def _weights(self, cut: Call, index: int, reading: Reading, axis: int) -> Tensor:
        """The weights (N, K) of the channels of one of the layers at which a call is cut."""

    def _contributions(self, a: Tensor, *signals: Tensor) -> Tensor:
        return signals[0] * a

    def _read(self, call: Call) -> list[Reading]:
        layers: Any = self.target_layer if isinstance(self.target_layer, tuple) else (self.target_layer,)
        if self.target_layer is None:
            layers = tuple(reading.name for reading in read_gradients(_silent(call), None))
        readings = []
        for layer in layers:
            cut = at_layers(call, (layer,), read_off=False, must_reach=False)
            readings.append(self._weighted(cut, 0, read_cut(cut, type(self).__name__)[0], call.inputs[0]))
        return readings

    def _at_explained_layers(self, call: Call) -> Tensors:
        image = call.own_inputs[0]
        readings = [self._weighted(call, i, r, image) for i, r in enumerate(read_cut(call, type(self).__name__))]
        return tuple(self._at_layer(reading, image) for reading in readings)

    def _weighted(self, cut: Call, index: int, reading: Reading, image: Tensor) -> Reading:
        """The reading with its weights, spread over the positions."""
        axis = self._axis(reading, image)
        weights = self._weights(cut, index, reading, axis)
        shape = [1] * reading.activation.ndim
        shape[0], shape[axis] = weights.shape
        return reading._replace(signals=(weights.view(shape).expand_as(reading.activation),))


@EXPLAINERS.register("scorecam")
class ScoreCam(ChannelMap):
    """relu(sum_k w_k A_k), w = softmax over channels of S(x * m_k) (Wang et al. 2020, arXiv:1910.01279).

    m_k is the map of channel k, resized to the input and scaled to [0, 1]: only what channel k marks is kept. A channel
    that is the same everywhere keeps nothing. No gradient is used; a pass of the model is run for each channel.
    """

    def _weights(self, cut: Call, index: int, reading: Reading, axis: int) -> Tensor:  # noqa: ARG002
        call = cut.uncut or cut
        x = self._image(call)
        a = reading.activation.movedim(axis, 1)
        a = patches(a, x, reading.name) if a.ndim < x.ndim else a
        masks = _scaled(resized(a, x.shape[2:], self.upsample))

        def masked(part: Call, samples: slice, some: range) -> Tensors:
            return (part.inputs[0] * masks[samples, some.start : some.stop].transpose(0, 1)[:, :, None],)

        return scores_of_copies(call, a.shape[1], masked, self.max_rows).T.softmax(1)


@EXPLAINERS.register("ablationcam")
class AblationCam(ChannelMap):
    """relu(sum_k w_k A_k), w_k = (S - S_k) / |S| (Desai and Ramaswamy 2020, WACV).

    S_k is the score with channel k set to 0. The paper divides by S, which would turn the map round where S is
    negative. No gradient is used; a pass of the model is run for each channel.
    """

    def _weights(self, cut: Call, index: int, reading: Reading, axis: int) -> Tensor:
        channels = reading.activation.shape[axis]

        def without(part: Call, samples: slice, some: range) -> Tensors:  # noqa: ARG001
            keep = torch.ones(len(some), channels, dtype=torch.bool, device=part.inputs[index].device)
            keep[torch.arange(len(some), device="cpu"), torch.arange(some.start, some.stop, device="cpu")] = False
            shape = [len(some), *[1] * reading.activation.ndim]
            shape[axis + 1] = channels
            copies = [x.expand(len(some), *x.shape) for x in part.inputs]
            copies[index] = copies[index].where(keep.view(shape), 0)
            return tuple(copies)

        score = cut.scores(cut.inputs)
        drop = score[:, None] - scores_of_copies(cut, channels, without, self.max_rows).T
        return drop / score.abs().where(score != 0, 1)[:, None]


def _scaled(maps: Tensor) -> Tensor:
    """Maps (N, K, ...), each scaled to [0, 1]; 0 where a map is the same everywhere."""
    axes = tuple(range(2, maps.ndim))
    low, high = maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True)
    extent = high - low
    return (maps - low) / extent.where(extent > 0, 1)


def _silent(call: Call) -> Call:
    """A call whose passes are nobody else's, and leave no graph."""
    return dataclasses.replace(call, on_output=None, passes_kept=None, create_graph=False)

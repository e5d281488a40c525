"""ShapleyCAM: channels weighted by the gradient and the Hessian of the score."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from xaikit.core import EXPLAINERS, Call
from xaikit.core.structure import Tensors
from xaikit.core.third_derivatives import refuse_wrong_third_derivative, third_derivatives
from xaikit.explainers.cam.base import ActivationMap, Reading, read_cut
from xaikit.explainers.cam.gradients import read_gradients
from xaikit.explainers.cam.rules import gradcam


@EXPLAINERS.register("shapleycam")
class ShapleyCam(ActivationMap):
    """relu(sum_k w_k A_k), w_k = mean of dS/dA_k - (H A)_k / 2 over the positions, H the Hessian of S by A.

    The Shapley value of A_k for S, developed to the second order (Cai 2025, arXiv:2501.06261). Where the layers behind
    A are piecewise linear, H is 0 and the map is GradCam's.
    """

    PASSES = (2,)

    def _contributions(self, a: Tensor, *signals: Tensor) -> Tensor:
        return gradcam(a, *signals)

    def _read(self, call: Call) -> list[Reading]:
        with third_derivatives(call.create_graph):
            readings = read_gradients(_twice(call), self.target_layer)
        return [
            r._replace(signals=(_effect(r.activation, r.signals[0], create_graph=call.create_graph),)) for r in readings
        ]

    def _at_explained_layers(self, call: Call) -> Tensors:
        readings, image = read_cut(call, type(self).__name__), call.own_inputs[0]
        # Leaves of the pass, also where no parameter before the layer is part of a loss.
        activations = tuple(a if a.requires_grad else a.detach().requires_grad_() for a in call.inputs)
        with third_derivatives(call.create_graph):
            gradients = _twice(call).grad_of(activations)
        effects = [_effect(a, g, create_graph=call.create_graph) for a, g in zip(activations, gradients, strict=True)]
        return tuple(
            self._at_layer(r._replace(signals=(effect,)), image) for r, effect in zip(readings, effects, strict=True)
        )


def _twice(call: Call) -> Call:
    """A call whose gradients can be differentiated again."""
    return dataclasses.replace(call, create_graph=True, on_output=None, passes_kept=None)


def _effect(a: Tensor, g: Tensor, *, create_graph: bool) -> Tensor:
    """The derivative g by the activations a, less half of its own derivative along a."""
    if not g.requires_grad:
        return g
    if create_graph:
        refuse_wrong_third_derivative((g,))
    direction = a if create_graph else a.detach()
    (product,) = torch.autograd.grad(g, a, direction, retain_graph=True, create_graph=create_graph, allow_unused=True)
    return g if product is None else g - product / 2

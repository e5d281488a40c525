"""Class activation maps that weight the activations of a layer by the gradient of the score."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core import EXPLAINERS, Call, Categorical, Float, Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.layer_gradients import read_layers
from xaikit.core.layers import find_point
from xaikit.core.structure import Tensors
from xaikit.explainers.cam.base import ActivationMap, Reading
from xaikit.explainers.cam.layers import reached, recorded
from xaikit.explainers.cam.rules import RULES


def read_gradients(call: Call, target_layer: Any) -> list[Reading]:
    """The target layers' activations and the derivative of the score by them, in one forward and one backward pass.

    Args:
        call: at the model's inputs, of which there is one.
        target_layer: one or several layers; None chooses.
    """
    chosen: list[Any] = []
    outputs: list[Any] = []

    def note(output: Any) -> None:
        outputs.append(output)
        if call.on_output is not None:
            call.on_output(output)

    def activations(leaves: Tensors) -> Tensors:
        chosen.extend(recorder.chosen(leaves, outputs[0]))
        return tuple(output for _, _, output in chosen)

    with recorded(call.model, target_layer) as recorder:
        gradients = dataclasses.replace(call, on_output=note).grad_of(call.inputs, at=activations)
    readings = [Reading(name, module, a, (g,)) for (name, module, a), g in zip(chosen, gradients, strict=True)]
    if target_layer is None and len(readings) > 1:
        return [readings[reached(gradients, call.inputs[0])]]
    return readings


class GradientMap(ActivationMap):
    """Base of the maps by one gradient. A subclass names the rule, one of `xaikit.explainers.cam.rules`."""

    SHARES_TASK_FORWARD = True
    SINGLE_BACKWARD = True
    RULE: ClassVar[str] = ""

    def _contributions(self, a: Tensor, *signals: Tensor) -> Tensor:
        return RULES[self.RULE](a, *signals)

    def _read(self, call: Call) -> list[Reading]:
        return read_gradients(call, self.target_layer)

    def _at_explained_layers(self, call: Call) -> Tensors:
        layers = [find_point(call.model, layer)[:2] for layer in self.layers]
        read, image = read_layers(call), call.own_inputs[0]
        # A map of each run by itself: an axis of runs would be taken for one of positions.
        by_run = [
            [self._at_layer(Reading(*layer, a, (g,)), image) for a, g in zip(runs, gradients, strict=True)]
            for layer, runs, gradients in zip(layers, read.activations, read.gradients, strict=True)
        ]
        return read.gathered(by_run)


@EXPLAINERS.register("gradcam")
class GradCam(GradientMap):
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

    RULE = "gradcam"


@EXPLAINERS.register("gradcam_plus_plus")
class GradCamPlusPlus(GradientMap):
    """GradCam with w_k = sum over positions of alpha_k relu(dS/dA_k) (Chattopadhay et al. 2018, arXiv:1710.11063).

    The paper's alpha_k = g² / (2 g² + g³ sum A_k), with g = dS/dA_k at each position, is for the score exp(S). We leave
    out the factor exp(S) in front of the whole map. The paper assumes activations that are not negative, so our sum
    takes relu(A_k). Divided by g², alpha_k = 1 / (2 + g sum relu(A_k)), which has no pole where relu(g) > 0.
    """

    RULE = "gradcam_plus_plus"


@EXPLAINERS.register("hirescam")
class HiResCam(GradientMap):
    """relu(sum_k g_k A_k) at each position, with g = dS/dA (Draelos and Carin 2020, arXiv:2011.08891).

    Without the relu it sums to gradient times activation, so it shows exactly the positions that the layers behind A
    use where they are linear.
    """

    RULE = "hirescam"


@EXPLAINERS.register("elementwise_cam")
class ElementwiseCam(GradientMap):
    """sum_k relu(g_k A_k) at each position, with g = dS/dA: only what speaks for the class, channel by channel.

    As `GradCAMElementWise` of pytorch-grad-cam. Positive and negative channels do not cancel.
    """

    RULE = "elementwise"


@EXPLAINERS.register("xgradcam")
class XGradCam(GradientMap):
    """relu(sum_k w_k A_k), w_k = sum g_k A_k / sum A_k over positions, g = dS/dA (Fu et al. 2020, arXiv:2008.02312).

    The sums run over the positions. A channel whose activations sum to 0 gets the weight 0.
    """

    RULE = "xgradcam"


@EXPLAINERS.register("layercam")
class LayerCam(GradientMap):
    """relu(sum_k relu(g_k) A_k) at each position, g = dS/dA (Jiang et al. 2021, IEEE TIP, 10.1109/TIP.2021.3089943).

    Meant for earlier layers, too, whose maps are finer.
    """

    RULE = "layercam"


@EXPLAINERS.register("eigencam")
class EigenCam(GradientMap):
    """The first principal component of the activations A (Muhammad and Yeasin 2020, arXiv:2008.00299).

    relu(X v), X the activations (positions, channels) with centred columns, v its first right singular vector. The
    target chooses nothing but the layer, where none is named. A singular vector has no sign: ours is such that X v
    grows with the sum of the activations.
    """

    channels: Annotated[
        str,
        Categorical("sum", "eigen", search=False),
        "how the channels are joined: their sum, or their first principal component over the positions",
    ] = "eigen"

    def _contributions(self, a: Tensor, *signals: Tensor) -> Tensor:  # noqa: ARG002
        return a


@EXPLAINERS.register("eigengradcam")
class EigenGradCam(HiResCam):
    """The first principal component of g_k A_k over the positions, with g = dS/dA.

    As `EigenGradCAM` of pytorch-grad-cam: EigenCam of gradient times activation, so that the class counts. Its sign is
    such that it grows with the sum over the channels, which is HiResCam's map.
    """

    channels: Annotated[
        str,
        Categorical("sum", "eigen", search=False),
        "how the channels are joined: their sum, or their first principal component over the positions",
    ] = "eigen"


@EXPLAINERS.register("finercam")
class FinerCam(GradientMap):
    """A map of what tells the class from those most like it (Zhang et al. 2025, arXiv:2501.11309).

    The explained score is sum_j p_j (S - alpha S_j) / sum_j p_j over the `n_compared` classes j whose outputs S_j are
    nearest to the explained score S, with p the softmax of the outputs. `rule` says which map is made of it.
    """

    rule: Annotated[str, Categorical(*RULES, search=False), "which map is made"] = "gradcam"
    alpha: Annotated[float, Float(low=0.2, high=1.0, step=0.2, ge=0), "how much of the other classes is taken off"] = (
        1.0
    )
    n_compared: Annotated[int, Int(ge=1), "classes to compare with; all others, where there are fewer"] = 3

    def _contributions(self, a: Tensor, *signals: Tensor) -> Tensor:
        return RULES[self.rule](a, *signals)

    def _attribute(self, call: Call) -> Tensors:
        def contrast(output: Any) -> Tensor:
            return self._contrast(call, output)

        return super()._attribute(dataclasses.replace(call, target=contrast))

    def _contrast(self, call: Call, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 2 or output.shape[1] < 2 or output.is_complex():
            form = f"{tuple(output.shape)} of {output.dtype}" if isinstance(output, Tensor) else type(output).__name__
            raise InvalidInputError(
                f"FinerCam compares a class with others, so the model's output must be real, (N, classes) with at "
                f"least two classes, got {form}; use GradCam"
            )
        score = call.score(output)[:, None]
        distance = (output - score).detach().abs()
        itself = distance == 0
        if isinstance(call.target, Tensor):
            itself = torch.zeros_like(itself).scatter_(1, call.target[:, None], True)
        count = min(self.n_compared, output.shape[1] - 1)
        nearest = distance.masked_fill(itself, torch.inf).topk(count, largest=False).indices
        weight = output.softmax(1).gather(1, nearest)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(output.dtype).tiny)
        return (weight * (score - self.alpha * output.gather(1, nearest))).sum(1)

"""SmoothGrad-CAM++: the weights of GradCam++ from derivatives at noisy copies of the input."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor

from xaikit.core import EXPLAINERS, Call, Categorical, Float, Int
from xaikit.core.errors import InvalidTypeError
from xaikit.core.structure import Tensors, joined_parts
from xaikit.explainers.cam.base import ActivationMap, Reading
from xaikit.explainers.cam.gradients import read_gradients
from xaikit.explainers.cam.layers import recorded
from xaikit.explainers.cam.rules import positions
from xaikit.explainers.noise import NoiseStream, value_range


@EXPLAINERS.register("smooth_gradcam_plus_plus")
class SmoothGradCamPlusPlus(ActivationMap):
    """GradCam++ with derivatives averaged over noisy copies of the input (Omeiza et al. 2019, arXiv:1908.01224).

    relu(sum_k w_k A_k), w_k = sum over positions of alpha_k relu(D1_k), alpha_k = D2_k / (2 D2_k + D3_k sum relu(A_k)).
    D1 is the mean of g = dS/dA over the copies x + s z, D2 and D3 are the means of relu(g)² and relu(g)³; A are the
    activations of x. The paper takes the powers of g itself, where alpha has poles. The noise is SmoothGrad's: z
    standard normal, the same for every sample, s = noise_level * (max x - min x) of the sample.
    """

    PASSES = ("n_iter",)

    noise_level: Annotated[
        float, Float(low=0.05, high=0.5, step=0.05, ge=0), "noise std as a fraction of each sample's range"
    ] = 0.1
    n_iter: Annotated[int, Int(low=4, high=40, step=4, ge=1), "noisy copies"] = 10
    noise: Annotated[str, Categorical("gaussian", "antithetic", "sobol", search=False), "how the copies are drawn"] = (
        "antithetic"
    )
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most rows in one forward pass; None chooses"] = None

    def _contributions(self, a: Tensor, *signals: Tensor) -> Tensor:
        first, squared, cubed = signals
        total = a.relu().sum(positions(a), keepdim=True)
        alpha = squared / (2 * squared + cubed * total).where(squared > 0, 1)
        return (alpha * first.relu()).sum(positions(a), keepdim=True) * a

    def _read(self, call: Call) -> list[Reading]:
        return self._read_layers(call, self.target_layer)

    def _at_explained_layers(self, call: Call) -> Tensors:
        at_inputs = call.uncut or call
        dtype = next((x.dtype for x in at_inputs.inputs if not x.is_floating_point()), None)
        if dtype is not None:
            raise InvalidTypeError(
                f"{type(self).__name__} adds noise to the inputs, and {dtype} takes none; use gradcam_plus_plus"
            )
        return tuple(
            self._at_layer(reading, at_inputs.inputs[0]) for reading in self._read_layers(at_inputs, self.layers)
        )

    def _read_layers(self, call: Call, layers: object) -> list[Reading]:
        readings = read_gradients(call, layers)
        names = tuple(reading.name for reading in readings)
        moments = self._moments(call, names)
        return [r._replace(signals=m) for r, m in zip(readings, moments, strict=True)]

    def _moments(self, call: Call, names: tuple[str, ...]) -> list[Tensors]:
        """For each layer the means of g, relu(g)² and relu(g)³ over the copies."""
        stream = NoiseStream(self.noise, [x.shape[1:] for x in call.inputs], call.seed)
        parts = []
        for part, passes in call.passes(self.n_iter, self.max_rows):
            stream.restart()
            sums: list[list[Tensor]] = []
            for copies in passes:
                draws = stream.draw(len(copies))
                noisy = tuple(
                    (x + self.noise_level * value_range(x) * z[:, None].to(x)).flatten(0, 1)
                    for x, z in zip(part.inputs, draws, strict=True)
                )
                gradients = _gradients_at(part, noisy, len(copies), names)
                powers = [[t.unflatten(0, (len(copies), part.n)).sum(0) for t in _powers(g)] for g in gradients]
                sums = powers if not sums else [_added(old, new) for old, new in zip(sums, powers, strict=True)]
            parts.append([tuple(t / self.n_iter for t in layer) for layer in sums])
        return list(joined_parts(parts))


def _gradients_at(call: Call, inputs: Tensors, copies: int, names: tuple[str, ...]) -> Tensors:
    """The derivative of the score by the layers' activations, (copies * N, ...)."""
    with recorded(call.model, names) as recorder:
        return call.grad_of(inputs, copies, at=lambda leaves: tuple(output for _, _, output in recorder.chosen(leaves)))


def _powers(g: Tensor) -> Tensors:
    rising = g.relu()
    return g, rising.square(), rising.pow(3)


def _added(old: list[Tensor], new: list[Tensor]) -> list[Tensor]:
    return [a + b for a, b in zip(old, new, strict=True)]

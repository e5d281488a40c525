"""SmoothGrad and VarGrad: mean and variance of the gradient over noisy copies of the input, in one streaming pass."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

import torch
from torch import Tensor, nn

from xaikit.core import EXPLAINERS, Call, Categorical, Explainer, Float, Int, torch_private
from xaikit.core.structure import Tensors, joined_parts
from xaikit.explainers.noise import NoiseStream, value_range


class Moments(NamedTuple):
    """Mean and variance of the gradient over the noisy copies, each in the structure of the inputs."""

    mean: Any
    variance: Any


@EXPLAINERS.register("smoothgrad")
class SmoothGrad(Explainer):
    """Mean gradient over noisy copies of the input (Smilkov et al. 2017, arXiv:1706.03825).

    A copy is x + s * z with z standard normal and s = noise_level * (max x - min x) of its sample. Every sample gets
    the same z, so its attribution does not depend on the rest of the batch.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> SmoothGrad(model, n_iter=8).attribute(torch.rand(1, 3), 0).allclose(model.weight[:1])
    True
    """

    SUPPORTED_MODULES = (nn.Linear, torch_private.Convolution, nn.RNNBase, nn.MultiheadAttention)
    PASSES = ("n_iter",)
    USES_GLOBAL_RANDOM = False

    noise_level: Annotated[
        float, Float(low=0.05, high=0.95, step=0.05, ge=0), "noise std as a fraction of each sample's range"
    ] = 0.1
    n_iter: Annotated[int, Int(low=10, high=100, step=10, ge=1), "noisy copies"] = 20
    noise: Annotated[str, Categorical("gaussian", "antithetic", "sobol", search=False), "how the copies are drawn"] = (
        "antithetic"
    )
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most rows in one forward pass; None chooses"] = None

    def _attribute(self, call: Call) -> Tensors:
        return self._attribute_each(call)[0]

    def _attribute_each(self, call: Call) -> tuple[Tensors, ...]:
        return self._moments(call, variance=False)[0]

    def moments(self, inputs: Any, targets: Any = None, *, create_graph: bool = False, seed: int = 0) -> Moments:
        """Mean (SmoothGrad) and variance (VarGrad) over the same copies, at the cost of one of the two methods.

        Args:
            inputs: as for `attribute`.
            targets: as for `attribute`.
            create_graph: as for `attribute`.
            seed: as for `attribute`.

        Returns:
            Both attributions, each in the structure of the inputs.

        Raises:
            InvalidInputError, InvalidTypeError, UnboundError: as for `attribute`.
        """

        def method(call: Call) -> tuple[Tensors, ...]:
            (mean,), (variance,) = self._moments(call)
            return mean, variance

        return Moments(*self.run_call(method, inputs, targets, create_graph=create_graph, seed=seed))

    def _moments(self, call: Call, *, variance: bool = True) -> tuple[tuple[Tensors, ...], tuple[Tensors, ...]]:
        """The means for each target, and the variances, if they are asked for."""
        stream = NoiseStream(self.noise, [x.shape[1:] for x in call.inputs], call.seed)
        means: list[list[Tensors]] = []
        variances: list[list[Tensors]] = []
        for part, passes in call.passes(self.n_iter, self.max_rows):
            stream.restart()
            spreads = [self.noise_level * value_range(x) for x in part.inputs]
            running = [[Running() for _ in part.inputs] for _ in part.targets]
            for copies in passes:
                draws = stream.draw(len(copies))
                noisy = tuple(
                    torch.addcmul(x, s, z[:, None].to(x)).flatten(0, 1)
                    for x, s, z in zip(part.inputs, spreads, draws, strict=True)
                )
                for states, grads in zip(running, part.grads_of(noisy, len(copies)), strict=True):
                    for state, g in zip(states, grads, strict=True):
                        state.add(g.unflatten(0, (len(copies), part.n)), variance=variance)
            inputs = part.inputs
            means.append([tuple(r.mean.to(x) for r, x in zip(s, inputs, strict=True)) for s in running])
            if variance:
                variances.append([tuple(r.variance.to(x) for r, x in zip(s, inputs, strict=True)) for s in running])
        return joined_parts(means), joined_parts(variances)


@EXPLAINERS.register("vargrad")
class VarGrad(SmoothGrad):
    """Variance of the gradient over noisy copies of the input (Adebayo et al. 2018, arXiv:1810.03307).

    Never negative, and zero for a linear model. The settings are SmoothGrad's; the noise is plain Gaussian by default,
    since antithetic and Sobol noise lower the error of a mean, not that of a variance.
    """

    noise: Annotated[str, Categorical("gaussian", "antithetic", "sobol", search=False), "how the copies are drawn"] = (
        "gaussian"
    )

    def _attribute_each(self, call: Call) -> tuple[Tensors, ...]:
        return self._moments(call)[1]


class Running:
    """Mean and population variance of a stream of blocks (Welford 1962; Chan, Golub and LeVeque 1983 for blocks).

    Values are taken relative to the first one, so a constant stream has a variance of exactly zero.
    """

    def __init__(self) -> None:
        self._count = 0

    def add(self, block: Tensor, *, variance: bool = True) -> None:
        """Add a block (k, ...) of values."""
        # Low precision is too coarse to sum in.
        block = block.float() if block.dtype in (torch.float16, torch.bfloat16) else block
        if self._count == 0:
            self._first = block[0]
            self._mean, self._squares = torch.zeros_like(self._first), torch.zeros_like(self._first)
        block = block - self._first
        k, mean = len(block), block.mean(0)
        total = self._count + k
        delta = mean - self._mean
        if variance:
            self._squares = self._squares + (block - mean).square().sum(0) + delta.square() * (self._count * k / total)
        self._mean = self._mean + delta * (k / total)
        self._count = total

    @property
    def mean(self) -> Tensor:
        """The mean of all values so far."""
        return self._first + self._mean

    @property
    def variance(self) -> Tensor:
        """Their population variance."""
        return self._squares / self._count

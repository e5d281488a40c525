"""The blurred input as a baseline: the input without its details."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from xaikit.core.params import Float
from xaikit.core.registries import BASELINES
from xaikit.transforms.axes import CHANNEL_AXIS, axis_setting, place_axes
from xaikit.transforms.baselines import Baseline

REACH = 4.0  # standard deviations at which the kernel ends


@BASELINES.register("blur")
class Blur(Baseline):
    """Gaussian blur over the places, channel by channel; the border continues with its last value.

    >>> import torch
    >>> step = torch.tensor([[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]])
    >>> Blur(sigma=1.0)(step).round(decimals=2)
    tensor([[0.0000, 0.0600, 0.3000, 0.7000, 0.9400, 1.0000]])
    """

    sigma: Annotated[float, Float(low=1, high=16, gt=0, log=True), "standard deviation in places"] = 5.0
    channel_axis: Annotated[int | None, axis_setting, CHANNEL_AXIS] = None

    def __call__(self, x: Tensor) -> Tensor:
        """`x` blurred along each axis of places."""
        blurred = x
        for axis in place_axes(x, self.channel_axis):
            weights = _weights(x.shape[axis], self.sigma).to(x)
            blurred = (blurred.movedim(axis, -1) @ weights.T).movedim(-1, axis)
        return blurred.contiguous()


def _weights(length: int, sigma: float) -> Tensor:
    """The weight of each position (column) in each blurred position (row), (length, length), float64."""
    radius = max(1, round(REACH * sigma))
    offsets = torch.arange(-radius, radius + 1, device="cpu")
    kernel = torch.exp(-0.5 * (offsets.double() / sigma) ** 2)
    kernel = kernel / kernel.sum()
    sources = (torch.arange(length, device="cpu")[:, None] + offsets).clamp(0, length - 1)
    return torch.zeros(length, length, dtype=torch.float64, device="cpu").scatter_add(
        1, sources, kernel.expand(length, -1)
    )

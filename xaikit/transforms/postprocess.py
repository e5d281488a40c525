"""Postprocessing: channels joined and values scaled, before an attribution is shown or ranked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from torch import Tensor

from xaikit.core import structure
from xaikit.core.configured import Configured
from xaikit.core.errors import InvalidTypeError
from xaikit.core.params import Choice
from xaikit.core.registries import NORMALIZATIONS, POOLINGS, POSTPROCESSORS
from xaikit.transforms.axes import CHANNEL_AXIS, axis_setting, channel_axis
from xaikit.transforms.normalization import Normalization, nan_where_not_finite
from xaikit.transforms.pooling import Pooling


@POSTPROCESSORS.register("postprocessor")
class Postprocessor(Configured):
    """The channels of each place joined, then each sample scaled.

    A pooled attribution keeps its number of axes, with size 1 along the channel axis, so it broadcasts against the
    input. A sample with a NaN or an infinite value becomes NaN everywhere.

    >>> import torch
    >>> attribution = torch.tensor([[[[3.0, 0.0]], [[-4.0, 1.0]]]])  # one sample, two channels, 1 x 2 places
    >>> Postprocessor(pooling="l2norm", normalization="minmax")(attribution)
    tensor([[[[1., 0.]]]])
    """

    REGISTRY: ClassVar[Any] = POSTPROCESSORS

    pooling: Annotated[Any, Choice(POOLINGS, search=True), "how the channels of a place are joined"] = "sum"
    normalization: Annotated[Any, Choice(NORMALIZATIONS, search=True), "how each sample is scaled"] = "none"
    channel_axis: Annotated[int | None, axis_setting, CHANNEL_AXIS] = None

    def __call__(self, attribution: Any) -> Any:
        """The attribution of a batch, (N, ...) or a tuple or dict of such, pooled and scaled.

        Raises:
            InvalidTypeError: for anything but floating-point tensors.
            InvalidInputError: for a channel axis that the attribution does not have.
        """
        tensors, rebuild = structure.flatten(attribution, "attributions")
        return rebuild(tuple(self._one(tensor) for tensor in tensors))

    def _one(self, attribution: Tensor) -> Tensor:
        if not attribution.is_floating_point():
            raise InvalidTypeError(f"an attribution holds floating-point numbers, got {attribution.dtype}")
        pooling: Pooling = self.pooling
        normalization: Normalization = self.normalization
        pooled = pooling(attribution.clone(), channel_axis(attribution, self.channel_axis))
        return nan_where_not_finite(normalization(pooled), attribution)

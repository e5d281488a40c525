"""Projections: the part of an attribution that is penalised: everything, a subspace of its channels, a direction.

A mask selects positions; a projection selects a part of the attribution there. Colour, for example, is spread over all
lit pixels, so no mask can select it, but it is the deviation of the channels from their mean.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core import Configured, Int
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.registries import PROJECTIONS


class Projection(Configured, abc.ABC):
    """A function from an attribution to the part of it that is penalised."""

    REGISTRY: ClassVar[Any] = PROJECTIONS

    @abc.abstractmethod
    def __call__(self, attribution: Tensor) -> Tensor:
        """The part of an attribution (N, ...): of its shape, with size 1 along the axes that are summed over."""


@PROJECTIONS.register("all")
class All(Projection):
    """Everything."""

    def __call__(self, attribution: Tensor) -> Tensor:
        """The attribution itself."""
        return attribution


class OverChannels(Projection):
    """A projection that looks along the channels."""

    channel_axis: Annotated[int, Int(), "of the attribution; 1 in images, -1 in token embeddings (N, T, D)"] = 1

    def _axis(self, attribution: Tensor) -> int:
        axis = self.channel_axis % attribution.ndim if abs(self.channel_axis) < attribution.ndim else 0
        if axis == 0 or attribution.ndim < 3:
            raise InvalidInputError(
                f"what={self.NAME!r} looks along the channels of (N, channels, ...), and an attribution of shape "
                f"{tuple(attribution.shape)} has none at axis {self.channel_axis}; set channel_axis, or use what='all'"
            )
        return axis


@PROJECTIONS.register("chroma")
class Chroma(OverChannels):
    """a_c - mean over c of a_c: what tells the channels apart, the colour of an image.

    >>> Chroma()(torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1)).flatten().tolist()
    [-2.0, -1.0, 3.0]
    """

    def __call__(self, attribution: Tensor) -> Tensor:
        """The deviation of each channel from the mean of the channels, at each position."""
        return attribution - attribution.mean(self._axis(attribution), keepdim=True)


@PROJECTIONS.register("channel_sum")
class ChannelSum(OverChannels):
    """sum over c of a_c: the channels of a position as one feature."""

    def __call__(self, attribution: Tensor) -> Tensor:
        """The sum of the channels, at each position; size 1 along the channels."""
        return attribution.sum(self._axis(attribution), keepdim=True)


def _floats(value: Any, where: str) -> Tensor:
    try:
        tensor = torch.as_tensor(value, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise InvalidTypeError(f"{where} must be a tensor of numbers, got {value!r}") from None
    tensor = tensor.detach() if tensor.is_floating_point() else tensor.double()
    if tensor.ndim == 0 or not bool(torch.isfinite(tensor).all()) or not bool(tensor.any()):
        raise InvalidInputError(
            f"{where} must hold finite numbers, not all of them zero, got a tensor of shape {tuple(tensor.shape)}"
        )
    return tensor


@PROJECTIONS.register("channel_subspace")
class ChannelSubspace(OverChannels):
    """Q Qᵀ a: the part of each position's channels that lies in the span of some vectors; Q is their orthonormal basis.

    >>> red = ChannelSubspace(vectors=[[1.0, 0.0, 0.0]])
    >>> red(torch.tensor([1.0, 2.0, 6.0]).view(1, 3, 1)).flatten().tolist()
    [1.0, 0.0, 0.0]
    """

    vectors: Annotated[Any, _floats, "spanning the subspace, (k, channels)"]

    def __call__(self, attribution: Tensor) -> Tensor:
        """The orthogonal projection of the channels, at each position."""
        axis = self._axis(attribution)
        vectors = self.vectors.reshape(-1, self.vectors.shape[-1]).double()
        _check_channels(vectors.shape[1], attribution, axis)
        _, sizes, rows = torch.linalg.svd(vectors, full_matrices=False)
        basis = rows[sizes > sizes[0] * vectors.shape[1] * torch.finfo(rows.dtype).eps].to(attribution)
        return ((attribution.movedim(axis, -1) @ basis.T) @ basis).movedim(-1, axis)


@PROJECTIONS.register("direction")
class Direction(OverChannels):
    """<a, v> / |v|: how much of the attribution points along a direction, such as a concept's.

    A vector (channels,) gives a number for each position, or each sample where the attribution is (N, channels); one of
    the shape of a sample gives a number for each sample.

    >>> Direction(vector=[0.0, 2.0])(torch.tensor([[3.0, 4.0]]))
    tensor([[4.]])
    """

    vector: Annotated[Any, _floats, "the direction, (channels,) or of the shape of a sample"]

    def __call__(self, attribution: Tensor) -> Tensor:
        """The coefficient; size 1 along the axes of the vector."""
        unit = (self.vector / self.vector.norm()).to(attribution)
        if unit.shape == attribution.shape[1:]:
            axes = tuple(range(1, attribution.ndim))
            return (attribution * unit).sum(axes, keepdim=True) if axes else attribution * unit
        if unit.ndim != 1:
            raise InvalidInputError(
                f"a direction for attributions of shape {tuple(attribution.shape)} must have the shape (channels,) or "
                f"{tuple(attribution.shape[1:])}, got {tuple(unit.shape)}"
            )
        axis = self._axis(attribution)
        _check_channels(len(unit), attribution, axis)
        return (attribution.movedim(axis, -1) @ unit).unsqueeze(axis)


def _check_channels(size: int, attribution: Tensor, axis: int) -> None:
    if size != attribution.shape[axis]:
        raise InvalidInputError(
            f"vectors of {size} entries do not fit an attribution of shape {tuple(attribution.shape)}, which has "
            f"{attribution.shape[axis]} channels at axis {axis}"
        )


def _function(value: Any, where: str) -> Callable[[Tensor], Tensor]:
    if not callable(value):
        raise InvalidTypeError(f"{where} must be a function of an attribution, got {value!r}")
    return value  # type: ignore[no-any-return]


@PROJECTIONS.register("function")
class Function(Projection):
    """A user's function from the attribution (N, ...) to the part that is penalised."""

    function: Annotated[Any, _function, "attribution -> tensor of its shape, or with size 1 along some axes"]

    def __call__(self, attribution: Tensor) -> Tensor:
        """The result of the function."""
        part = self.function(attribution.clone())  # it may write into it
        if not isinstance(part, Tensor) or part.ndim != attribution.ndim or len(part) != len(attribution):
            got = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
            raise InvalidInputError(
                "a what= function must return a tensor of the attribution's shape, or with size 1 along some axes "
                f"after the first, got {got} for {tuple(attribution.shape)}"
            )
        return part


@PROJECTIONS.coerce
def from_value(value: Any) -> Projection | None:
    """The projection meant by a function; None for anything else."""
    return Function(function=value) if callable(value) and not isinstance(value, (type, Tensor)) else None

"""Baselines: what an input looks like when a feature is absent."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.arrays import holds_numbers, is_array, to_tensor
from xaikit.core.configured import Configured
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.params import Float, Int
from xaikit.core.registries import BASELINES
from xaikit.core.structure import Tensors, row_ends
from xaikit.transforms.axes import CHANNEL_AXIS, axis_setting, place_axes

if TYPE_CHECKING:
    from xaikit.core.call import Call


def _several(value: Any, where: str) -> Any:
    if not isinstance(value, (tuple, list)) or not value:
        raise InvalidTypeError(f"{where} must be a tuple of baselines, one for each input, got {value!r}")
    return tuple(BASELINES.create(item) for item in value)


class Baseline(Configured, abc.ABC):
    """Makes a tensor that stands in for an absent input, of the input's shape."""

    REGISTRY: ClassVar[Any] = BASELINES

    @abc.abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """The stand-in of a batch (N, ...), of the same shape, dtype and device."""

    def of(self, call: Call) -> Tensors:
        """The stand-in of each tensor that a call explains.

        Args:
            call: the open call; `call.inputs` are what is replaced.

        Returns:
            One tensor for each of `call.inputs`, of its shape.
        """
        return tuple(self.of_input(call, i) for i in range(len(call.inputs)))

    def of_input(self, call: Call, index: int) -> Tensor:
        """The stand-in of one of the tensors that a call explains.

        Args:
            call: the open call.
            index: which of `call.inputs`.
        """
        return self(call.inputs[index].clone())  # it may write into it


@BASELINES.register("zeros")
class Zeros(Baseline):
    """Zero everywhere."""

    def __call__(self, x: Tensor) -> Tensor:
        """Zeros like `x`."""
        return torch.zeros_like(x)


@BASELINES.register("constant")
class Constant(Baseline):
    """The same number everywhere."""

    value: Annotated[float, Float(), "the number"] = 0.0

    def __call__(self, x: Tensor) -> Tensor:
        """`value` like `x`."""
        return torch.full_like(x, self.value)


@BASELINES.register("mean")
class Mean(Baseline):
    """Each sample's mean over its places, channel by channel (over everything where there are no channels)."""

    channel_axis: Annotated[int | None, axis_setting, CHANNEL_AXIS] = None

    def __call__(self, x: Tensor) -> Tensor:
        """The mean over the axes that are neither the batch's nor the channels'."""
        axes = place_axes(x, self.channel_axis)
        return x.mean(axes, keepdim=True).expand_as(x) if axes else x


@BASELINES.register("uniform")
class Uniform(Baseline):
    """Uniform noise within each sample's range, the same draw for every sample."""

    random_state: Annotated[int, Int(ge=0), "seed of the draw"] = 0

    def __call__(self, x: Tensor) -> Tensor:
        """Noise of the shape of one sample, scaled to each sample's range."""
        generator = torch.Generator().manual_seed(self.random_state)
        unit = torch.rand(x.shape[1:], generator=generator, dtype=torch.float32, device="cpu").to(x)
        low, high = row_ends(x)
        return low + (high - low) * unit


@BASELINES.register("invert")
class Invert(Baseline):
    """Each sample's values mirrored within their range: min x + max x - x."""

    def __call__(self, x: Tensor) -> Tensor:
        """The negative of an image, within its own range."""
        low, high = row_ends(x)
        return low + high - x


@BASELINES.register("given")
class Given(Baseline):
    """A tensor of the user's own, of the shape of one sample or of the batch."""

    tensor: Annotated[Tensor, "the stand-in, (...) or (N, ...)"]

    def __call__(self, x: Tensor) -> Tensor:
        """The tensor, expanded to `x`.

        Raises:
            InvalidInputError: when it does not broadcast to the shape of `x`.
        """
        try:
            return self.tensor.to(x).expand_as(x)
        except RuntimeError:
            raise InvalidInputError(
                f"the baseline tensor must have the shape of one sample {tuple(x.shape[1:])} "
                f"or of the batch {tuple(x.shape)}, got {tuple(self.tensor.shape)}"
            ) from None


@BASELINES.register("per_input")
class BaselinePerInput(Baseline):
    """One baseline for each input of a model of several; a tuple of baselines means the same."""

    items: Annotated[Any, _several, "the baselines, in the order of the inputs"]

    def __call__(self, x: Tensor) -> Tensor:
        """Refused, since one tensor does not tell which input it is.

        Raises:
            InvalidInputError: always; `of` gives the stand-ins of all inputs.
        """
        raise InvalidInputError(f"{self!r} holds a baseline for each input; it takes all inputs together, not one")

    def of(self, call: Call) -> Tensors:
        """Each input's stand-in by its own baseline.

        Args:
            call: the open call.

        Raises:
            InvalidInputError: for another number of inputs.
        """
        if len(self.items) != len(call.inputs):
            sample = self._one_sample() if len(call.inputs) == 1 else None
            if sample is None:
                raise InvalidInputError(f"{len(self.items)} baselines for {len(call.inputs)} inputs; give one for each")
            return sample.of(call)
        return tuple(baseline.of_input(call, i) for i, baseline in enumerate(self.items))

    def _one_sample(self) -> Given | None:
        """The stand-in that a list of numbers, or of lists of them, is for a single input."""
        if all(isinstance(item, Constant) for item in self.items):
            return Given(tensor=torch.tensor([item.value for item in self.items], device="cpu"))
        tensors = [item.tensor for item in self.items if isinstance(item, Given)]
        stackable = len(tensors) == len(self.items) and len({t.shape for t in tensors}) == 1
        return Given(tensor=torch.stack(tensors)) if stackable else None


@BASELINES.coerce
def from_value(value: Any) -> Baseline | None:
    """The baseline meant by a number, an array, numbers in lists or a tuple of baselines; None for anything else."""
    if isinstance(value, (tuple, list)) and value:
        return BaselinePerInput(items=[to_tensor(v, "a baseline") if holds_numbers(v) else v for v in value])
    if is_array(value):
        return Given(tensor=to_tensor(value, "a baseline"))
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Constant(value=value)
    return None
